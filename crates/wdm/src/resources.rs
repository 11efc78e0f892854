//! Resources that a device was given, and those that it asks for ("Hardware Resources").

use core::marker::PhantomData;
use core::mem::offset_of;
use core::ptr::{self, NonNull};

use wdk_sys::{
    _IRQ_DEVICE_POLICY, ALL_PROCESSOR_GROUPS, CM_FULL_RESOURCE_DESCRIPTOR, CM_PARTIAL_RESOURCE_DESCRIPTOR,
    CM_RESOURCE_INTERRUPT_LATCHED, CM_RESOURCE_INTERRUPT_MESSAGE, CM_RESOURCE_INTERRUPT_POLICY_INCLUDED,
    CM_RESOURCE_LIST, CM_RESOURCE_MEMORY_LARGE_40, CM_RESOURCE_MEMORY_LARGE_48, CmResourceTypeDeviceSpecific,
    CmResourceTypeInterrupt, CmResourceTypeMemory as MEMORY, CmResourceTypeMemoryLarge as MEMORY_LARGE,
    CmResourceTypePort as PORT, IO_RESOURCE_DESCRIPTOR, IO_RESOURCE_LIST, IO_RESOURCE_REQUIREMENTS_LIST, IRP_MJ_PNP,
    IRP_MN_FILTER_RESOURCE_REQUIREMENTS,
};

use crate::irp::{Irp, IrpRef};
use crate::irql::Passive;
use crate::kernel::word;
use crate::status::{NtStatus, Result};
use crate::time::quad;

/// The resources of a device ("`CM_RESOURCE_LIST` structure").
#[derive(Clone, Copy)]
pub struct ResourceList<'a> {
    raw: Option<NonNull<CM_RESOURCE_LIST>>,
    irp: PhantomData<&'a IrpRef>,
}

/// One resource ("`CM_PARTIAL_RESOURCE_DESCRIPTOR` structure").
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Resource {
    /// Memory addresses.
    Memory {
        /// The first.
        start: u64,
        /// How many.
        length: u64,
    },
    /// I/O ports.
    Port {
        /// The first.
        start: u64,
        /// How many.
        length: u64,
    },
    /// An interrupt.
    Interrupt(InterruptResource),
    /// A resource of another type.
    Other(u8),
}

/// An interrupt as it is translated for the system; of a raw one only the kind is meaningful.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct InterruptResource {
    /// Message-signaled, not a line.
    pub message: bool,
    /// Edge-triggered, not level-triggered.
    pub latched: bool,
    /// Others may use the line too.
    pub shared: bool,
    /// The DIRQL.
    pub level: u16,
    /// The group of the processors that it may interrupt.
    pub group: u16,
    /// The system's vector.
    pub vector: u32,
    /// The processors of the group that it may interrupt.
    pub affinity: u64,
}

/// `u.Interrupt` and `u.MessageInterrupt.Translated` as a group-aware driver sees them. `wdk-sys` is built without
/// `NT_PROCESSOR_GROUPS` and has level and group as one number.
#[derive(Clone, Copy)]
#[repr(C, packed(4))]
struct GroupInterrupt {
    level: u16,
    group: u16,
    vector: u32,
    affinity: u64,
}

const _: () = {
    const UNION: usize = offset_of!(CM_PARTIAL_RESOURCE_DESCRIPTOR, u);
    const VECTOR: usize = offset_of!(CM_PARTIAL_RESOURCE_DESCRIPTOR, u.Interrupt.Vector);
    const AFFINITY: usize = offset_of!(CM_PARTIAL_RESOURCE_DESCRIPTOR, u.Interrupt.Affinity);
    assert!(VECTOR == UNION + offset_of!(GroupInterrupt, vector), "it lies over the bindings' structure");
    assert!(AFFINITY == UNION + offset_of!(GroupInterrupt, affinity), "it lies over the bindings' structure");
};

/// Goes through a [`ResourceList`].
#[derive(Clone)]
pub struct Resources<'a> {
    lists: u32,
    left: u32,
    next: *const CM_PARTIAL_RESOURCE_DESCRIPTOR,
    list: PhantomData<ResourceList<'a>>,
}

impl<'a> ResourceList<'a> {
    /// The list at `raw`, or an empty one.
    ///
    /// # Safety
    ///
    /// `raw` is null or a well-formed list that lives for `'a`.
    pub(crate) const unsafe fn from_raw(raw: *mut CM_RESOURCE_LIST) -> Self {
        Self { raw: NonNull::new(raw), irp: PhantomData }
    }

    /// Its resources, in the order of the bus driver.
    ///
    /// IRQL: PASSIVE_LEVEL.
    #[must_use]
    pub fn iter(&self) -> Resources<'a> {
        let Some(list) = self.raw else {
            return Resources { lists: 0, left: 0, next: ptr::null(), list: PhantomData };
        };
        // SAFETY: a well-formed list.
        let lists = unsafe { (*list.as_ptr()).Count };
        // SAFETY: as above; the first list follows the count.
        let first = unsafe { &raw const (*list.as_ptr()).List };
        Resources { lists, left: 0, next: first.cast(), list: PhantomData }
    }

    /// The first interrupt, preferring messages where there are any.
    ///
    /// IRQL: PASSIVE_LEVEL.
    #[must_use]
    pub fn interrupt(&self) -> Option<InterruptResource> {
        let interrupts = || {
            self.iter().filter_map(|resource| match resource {
                Resource::Interrupt(interrupt) => Some(interrupt),
                _ => None,
            })
        };
        interrupts().find(|interrupt| interrupt.message).or_else(|| interrupts().next())
    }
}

impl<'a> IntoIterator for &ResourceList<'a> {
    type IntoIter = Resources<'a>;
    type Item = Resource;

    fn into_iter(self) -> Resources<'a> {
        self.iter()
    }
}

impl Resources<'_> {
    /// Steps into the next list of the device, if there is one.
    fn next_list(&mut self) -> Option<()> {
        self.lists = self.lists.checked_sub(1)?;
        let list = self.next.cast::<CM_FULL_RESOURCE_DESCRIPTOR>();
        // SAFETY: a well-formed list has `Count` of these, each where the descriptors of the one before end.
        let partial = unsafe { &raw const (*list).PartialResourceList };
        // SAFETY: as above; the member may be unaligned.
        let count = unsafe { &raw const (*partial).Count };
        // SAFETY: as above.
        self.left = unsafe { count.read_unaligned() };
        // SAFETY: as above.
        self.next = unsafe { &raw const (*partial).PartialDescriptors }.cast();
        Some(())
    }
}

impl Iterator for Resources<'_> {
    type Item = Resource;

    #[inline]
    fn next(&mut self) -> Option<Resource> {
        while self.left == 0 {
            self.next_list()?;
        }
        self.left = self.left.wrapping_sub(1);
        // SAFETY: a descriptor is left in this list; it may be unaligned.
        let descriptor = unsafe { self.next.read_unaligned() };
        // SAFETY: at most one past the last one of the list.
        self.next = unsafe { self.next.add(1) };
        if u32::from(descriptor.Type) == CmResourceTypeDeviceSpecific {
            // Data of a length of its own follows, so this is the end.
            (self.left, self.lists) = (0, 0);
        }
        Some(resource(&descriptor))
    }
}

#[inline]
fn resource(descriptor: &CM_PARTIAL_RESOURCE_DESCRIPTOR) -> Resource {
    let (kind, flags) = (u32::from(descriptor.Type), u32::from(descriptor.Flags));
    if kind == CmResourceTypeInterrupt {
        return Resource::Interrupt(interrupt(descriptor, flags));
    }
    // SAFETY: memory, ports and large memory all begin with a start and a length.
    let range = unsafe { descriptor.u.Memory };
    let (start, length) = (quad(range.Start).cast_unsigned(), u64::from(range.Length));
    match kind {
        MEMORY => Resource::Memory { start, length },
        MEMORY_LARGE => Resource::Memory { start, length: length << large_shift(flags) },
        PORT => Resource::Port { start, length },
        _ => Resource::Other(descriptor.Type),
    }
}

/// In which unit the length of a large memory resource is ("`RtlCmDecodeMemIoResource` function").
const fn large_shift(flags: u32) -> u32 {
    if flags & CM_RESOURCE_MEMORY_LARGE_40 != 0 {
        8
    } else if flags & CM_RESOURCE_MEMORY_LARGE_48 != 0 {
        16
    } else {
        32
    }
}

fn interrupt(descriptor: &CM_PARTIAL_RESOURCE_DESCRIPTOR, flags: u32) -> InterruptResource {
    // SAFETY: lines and translated messages have the same layout, which is this one; it is inside the union.
    let raw = unsafe { (&raw const descriptor.u).cast::<GroupInterrupt>().read_unaligned() };
    InterruptResource {
        message: flags & CM_RESOURCE_INTERRUPT_MESSAGE != 0,
        latched: flags & CM_RESOURCE_INTERRUPT_LATCHED != 0,
        shared: u32::from(descriptor.ShareDisposition) == SHARED,
        level: raw.level,
        group: raw.group,
        vector: raw.vector,
        affinity: raw.affinity,
    }
}

/// `CmResourceShareShared`.
const SHARED: u32 = 3;

/// How the system is to choose the processors of an interrupt ("`IRQ_DEVICE_POLICY` enumeration").
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum AffinityPolicy {
    /// As the machine does by default.
    MachineDefault,
    /// All processors near the device.
    AllCloseProcessors,
    /// One processor near the device.
    OneCloseProcessor,
    /// Every processor.
    AllProcessorsInMachine,
    /// The processors of this group in this mask.
    SpecifiedProcessors {
        /// The group.
        group: u16,
        /// The mask.
        mask: u64,
    },
    /// Each message to another processor.
    SpreadMessagesAcrossAllProcessors,
}

impl AffinityPolicy {
    const fn raw(self) -> u32 {
        match self {
            Self::MachineDefault => _IRQ_DEVICE_POLICY::IrqPolicyMachineDefault,
            Self::AllCloseProcessors => _IRQ_DEVICE_POLICY::IrqPolicyAllCloseProcessors,
            Self::OneCloseProcessor => _IRQ_DEVICE_POLICY::IrqPolicyOneCloseProcessor,
            Self::AllProcessorsInMachine => _IRQ_DEVICE_POLICY::IrqPolicyAllProcessorsInMachine,
            Self::SpecifiedProcessors { .. } => _IRQ_DEVICE_POLICY::IrqPolicySpecifiedProcessors,
            Self::SpreadMessagesAcrossAllProcessors => _IRQ_DEVICE_POLICY::IrqPolicySpreadMessagesAcrossAllProcessors,
        }
    }
}

/// `u.Interrupt` of an `IO_RESOURCE_DESCRIPTOR` as a group-aware driver sees it, see [`GroupInterrupt`].
#[derive(Clone, Copy)]
#[repr(C)]
struct InterruptPolicy {
    minimum_vector: u32,
    maximum_vector: u32,
    affinity_policy: u16,
    group: u16,
    priority_policy: u32,
    targeted_processors: u64,
}

const _: () = assert!(
    size_of::<InterruptPolicy>() <= size_of::<IO_RESOURCE_DESCRIPTOR>() - offset_of!(IO_RESOURCE_DESCRIPTOR, u),
    "the union has room for it"
);

/// The resources that a device asks for, to be edited in `IRP_MN_FILTER_RESOURCE_REQUIREMENTS`.
pub struct Requirements<'a> {
    list: NonNull<IO_RESOURCE_REQUIREMENTS_LIST>,
    irp: PhantomData<&'a IrpRef>,
}

/// One interrupt of [`Requirements`].
pub struct InterruptRequirement<'a> {
    descriptor: NonNull<IO_RESOURCE_DESCRIPTOR>,
    list: PhantomData<&'a IrpRef>,
}

impl Irp<'_> {
    /// The list of `IRP_MN_FILTER_RESOURCE_REQUIREMENTS` for editing in place, once lower drivers have answered, which is the one that
    /// the status block holds ("`IRP_MN_FILTER_RESOURCE_REQUIREMENTS`"). The status of the IRP becomes `SUCCESS`. None where the device
    /// asks for nothing.
    ///
    /// IRQL: PASSIVE_LEVEL.
    ///
    /// # Errors
    ///
    /// What a lower driver failed with; `INVALID_DEVICE_REQUEST` for another IRP.
    pub fn requirements(&mut self, _: Passive<'_>) -> Result<Option<Requirements<'_>>> {
        if u32::from(self.major()) != IRP_MJ_PNP || u32::from(self.minor()) != IRP_MN_FILTER_RESOURCE_REQUIREMENTS {
            return Err(NtStatus::INVALID_DEVICE_REQUEST);
        }
        // Not supported is what the PnP manager has put there, and what stays where no lower driver cares.
        if !self.status().is_success() && self.status() != NtStatus::NOT_SUPPORTED {
            return Err(self.status());
        }
        let Some(list) = NonNull::new(ptr::with_exposed_provenance_mut(self.information())) else { return Ok(None) };
        self.set_status(NtStatus::SUCCESS);
        Ok(Some(Requirements { list, irp: PhantomData }))
    }
}

impl Requirements<'_> {
    /// Calls `edit` with each interrupt of every alternative.
    ///
    /// IRQL: PASSIVE_LEVEL.
    pub fn for_each_interrupt(&mut self, mut edit: impl FnMut(&mut InterruptRequirement<'_>)) {
        // SAFETY: the list is well-formed and, until the IRP is passed on, ours.
        let alternatives = unsafe { (*self.list.as_ptr()).AlternativeLists };
        // SAFETY: as above.
        let mut list = unsafe { &raw mut (*self.list.as_ptr()).List }.cast::<IO_RESOURCE_LIST>();
        for _ in 0..alternatives {
            // SAFETY: a well-formed list has this many alternatives, each where the one before ends.
            let count = unsafe { (*list).Count };
            // SAFETY: as above.
            let mut descriptor = unsafe { &raw mut (*list).Descriptors }.cast::<IO_RESOURCE_DESCRIPTOR>();
            for _ in 0..count {
                edit_interrupt(descriptor, &mut edit);
                // SAFETY: at most one past the last of the alternative.
                descriptor = unsafe { descriptor.add(1) };
            }
            list = descriptor.cast();
        }
    }
}

fn edit_interrupt(descriptor: *mut IO_RESOURCE_DESCRIPTOR, edit: &mut impl FnMut(&mut InterruptRequirement<'_>)) {
    // SAFETY: the caller goes through a well-formed list.
    let kind = unsafe { (*descriptor).Type };
    if u32::from(kind) != CmResourceTypeInterrupt {
        return;
    }
    if let Some(descriptor) = NonNull::new(descriptor) {
        edit(&mut InterruptRequirement { descriptor, list: PhantomData });
    }
}

impl InterruptRequirement<'_> {
    fn flags(&self) -> u32 {
        // SAFETY: the descriptor is in a list that is ours while this value lives.
        unsafe { (*self.descriptor.as_ptr()).Flags }.into()
    }

    /// Whether it is message-signaled.
    ///
    /// IRQL: PASSIVE_LEVEL.
    #[must_use]
    pub fn is_message(&self) -> bool {
        self.flags() & CM_RESOURCE_INTERRUPT_MESSAGE != 0
    }

    /// Whether it names a policy: the administrator's, from the registry, or a lower driver's.
    ///
    /// IRQL: PASSIVE_LEVEL.
    #[must_use]
    pub fn has_policy(&self) -> bool {
        self.flags() & CM_RESOURCE_INTERRUPT_POLICY_INCLUDED != 0
    }

    /// The policy that it names, as a number of the `IRQ_DEVICE_POLICY` enumeration; none where it names none.
    ///
    /// IRQL: PASSIVE_LEVEL.
    #[must_use]
    pub fn policy(&self) -> Option<u32> {
        // SAFETY: the descriptor is an interrupt's, and the union has room for this layout.
        self.has_policy().then(|| u32::from(unsafe { (*self.interrupt()).affinity_policy }))
    }

    /// Names a policy, and says that the driver knows of processor groups.
    ///
    /// IRQL: PASSIVE_LEVEL.
    pub fn set_policy(&mut self, policy: AffinityPolicy) {
        let (group, mask) = match policy {
            AffinityPolicy::SpecifiedProcessors { group, mask } => (group, mask),
            _ => (word(ALL_PROCESSOR_GROUPS), 0),
        };
        // SAFETY: the descriptor is an interrupt's, the union has room for this layout, and the list is ours.
        let interrupt = unsafe { &mut *self.interrupt() };
        interrupt.affinity_policy = word(policy.raw());
        interrupt.group = group;
        interrupt.targeted_processors = mask;
        // SAFETY: the descriptor is in a list that is ours while this value lives.
        unsafe { (*self.descriptor.as_ptr()).Flags |= word(CM_RESOURCE_INTERRUPT_POLICY_INCLUDED) };
    }

    const fn interrupt(&self) -> *mut InterruptPolicy {
        // SAFETY: the address of a member of a live descriptor.
        unsafe { &raw mut (*self.descriptor.as_ptr()).u }.cast()
    }
}
