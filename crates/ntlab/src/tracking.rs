//! What drivers have made and must take back: who made it, and where.
//!
//! Driver Verifier does so for pool ("Pool Tracking"). Here it is everything that the kernel makes for a driver. What is left when the
//! driver has left a device, or is unloaded, is told with the stack that made it. A stack is kept as its return addresses; what is made
//! for each request is kept with one address only, so that tracking costs no walk of the stack there.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    rc::Rc,
};

use windows_sys::Wdk::Foundation::{DEVICE_OBJECT, DRIVER_OBJECT};

use crate::{
    finding::Finding,
    io::{device, driver, remove_lock},
    kernel::Kernel,
    memory::Ptr,
    rule::Rule,
    sched::VERIFIER,
};

/// `DRIVER_UNLOADED_WITHOUT_CANCELLING_PENDING_OPERATIONS`.
const UNLOADED_WITHOUT_CANCELLING: u32 = 0xCE;
/// Parameter 1 of bug check 0xC4: a driver is unloaded without `EtwUnregister`.
const WITHOUT_ETW_UNREGISTER: u64 = 0xDD;
/// As many stacks a finding shows.
const SHOWN: usize = 8;

/// What was made. In the order in which a finding about several of them decides: what could still call the driver comes first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Tracked {
    /// `IoConnectInterruptEx`.
    Interrupt,
    /// `KeRegisterProcessorChangeCallback`.
    ProcessorCallback,
    /// `IoRegisterPlugPlayNotification`.
    PnpNotification,
    /// `PsCreateSystemThread`, while the thread runs.
    Thread,
    /// `EtwRegister`.
    EtwProvider,
    /// `IoAllocateWorkItem`.
    WorkItem,
    /// `IoAllocateIrp`, `IoInitializeIrp`.
    Irp,
    /// `IoCreateDevice`.
    Device,
    /// `IoSetDeviceInterfaceState`, while the interface is enabled.
    Interface,
    /// `IoCreateSymbolicLink`.
    SymbolicLink,
    /// Handles of `ZwOpenKey` and others.
    Handle,
    /// `MmMapIoSpaceEx`.
    Mapping,
    /// `AllocateCommonBuffer`.
    CommonBuffer,
    /// `IoGetDmaAdapter`.
    Adapter,
    /// `IoAllocateMdl`.
    Mdl,
    /// `ExInitializeResourceLite`.
    Resource,
    /// `IoWMIRegistrationControl`.
    WmiProvider,
}

impl Tracked {
    /// What a finding calls one.
    const fn name(self) -> &'static str {
        match self {
            Self::Interrupt => "a connected interrupt",
            Self::ProcessorCallback => "a processor change callback",
            Self::PnpNotification => "a PnP notification registration",
            Self::Thread => "a system thread that runs",
            Self::EtwProvider => "an ETW provider",
            Self::WorkItem => "a work item",
            Self::Irp => "an IRP",
            Self::Device => "a device object",
            Self::Interface => "a device interface that is enabled",
            Self::SymbolicLink => "a symbolic link",
            Self::Handle => "a handle",
            Self::Mapping => "device registers that are mapped",
            Self::Adapter => "a DMA adapter",
            Self::CommonBuffer => "a common buffer",
            Self::Mdl => "a memory descriptor list",
            Self::Resource => "an ERESOURCE",
            Self::WmiProvider => "a registration for WMI",
        }
    }

    /// The lab's own rule, where Windows has no bug check for one that is left.
    const fn rule(self) -> Option<Rule> {
        match self {
            Self::WorkItem => Some(Rule::WorkItemLeft),
            Self::Irp => Some(Rule::IrpLeft),
            Self::Device => Some(Rule::DeviceLeft),
            Self::Interface => Some(Rule::InterfaceLeft),
            Self::SymbolicLink => Some(Rule::SymbolicLinkLeft),
            Self::Handle => Some(Rule::HandleLeft),
            Self::Mapping => Some(Rule::MappingLeft),
            Self::Adapter => Some(Rule::AdapterLeft),
            Self::CommonBuffer => Some(Rule::CommonBufferLeft),
            Self::Mdl => Some(Rule::MdlLeft),
            Self::Resource => Some(Rule::ResourceLeft),
            Self::WmiProvider => Some(Rule::WmiProviderLeft),
            Self::PnpNotification => Some(Rule::NotificationLeft),
            Self::Interrupt | Self::ProcessorCallback | Self::Thread | Self::EtwProvider => None,
        }
    }
}

/// How a thing is known again: by its address or handle, or by its name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Id {
    /// An address or handle.
    Number(u64),
    /// A name.
    Name(String),
}

impl From<u64> for Id {
    fn from(number: u64) -> Self {
        Self::Number(number)
    }
}

impl From<String> for Id {
    fn from(name: String) -> Self {
        Self::Name(name)
    }
}

/// A thing that a driver has made.
#[derive(Clone, Debug)]
pub struct Made {
    kind: Tracked,
    id: Id,
    driver: Ptr<DRIVER_OBJECT>,
    device: Ptr<DEVICE_OBJECT>,
    /// Which of its kind, in words; empty where there is nothing to say.
    about: String,
    stack: Rc<[u64]>,
    /// In the order of making.
    number: u64,
}

impl Made {
    fn title(&self) -> String {
        let name = self.kind.name();
        if self.about.is_empty() { name.to_owned() } else { format!("{name} ({})", self.about) }
    }

    /// What it is.
    #[must_use]
    pub const fn kind(&self) -> Tracked {
        self.kind
    }

    /// Its address or handle; 0 for what is known by name.
    #[must_use]
    pub const fn id(&self) -> u64 {
        match self.id {
            Id::Number(number) => number,
            Id::Name(_) => 0,
        }
    }
}

/// Everything that drivers have made.
#[derive(Debug, Default)]
pub struct Tracking {
    made: RefCell<BTreeMap<(Tracked, Id), Made>>,
    sequence: Cell<u64>,
}

impl Tracking {
    /// Notes what the driver that runs has made; nothing where the lab itself has.
    pub fn made(&self, k: &Kernel, kind: Tracked, id: impl Into<Id>, about: impl FnOnce() -> String) {
        self.made_for(k, kind, id, Ptr::null(), about);
    }

    /// Notes what it has made for a device, which is named by its physical device object.
    pub fn made_for(
        &self,
        k: &Kernel,
        kind: Tracked,
        id: impl Into<Id>,
        device: Ptr<DEVICE_OBJECT>,
        about: impl FnOnce() -> String,
    ) {
        let driver = driver::running(k);
        if !driver.is_null() {
            self.add(Made {
                kind,
                id: id.into(),
                driver,
                device,
                about: about(),
                stack: k.exec.driver_stack(),
                number: 0,
            });
        }
    }

    /// The same for what is made for each request.
    pub fn made_often(&self, k: &Kernel, kind: Tracked, id: u64) {
        let caller = k.exec.caller();
        if let Some(driver) = driver::at_address(k, caller) {
            let stack = [caller].into();
            self.add(Made { kind, id: id.into(), driver, device: Ptr::null(), about: String::new(), stack, number: 0 });
        }
    }

    fn add(&self, made: Made) {
        let number = self.sequence.get() + 1;
        self.sequence.set(number);
        self.made.borrow_mut().insert((made.kind, made.id.clone()), Made { number, ..made });
    }

    /// Forgets what was taken back.
    pub fn gone(&self, kind: Tracked, id: impl Into<Id>) {
        self.made.borrow_mut().remove(&(kind, id.into()));
    }

    /// What a driver has made and not taken back.
    #[must_use]
    pub fn left_by(&self, driver: Ptr<DRIVER_OBJECT>) -> Vec<Made> {
        self.left(|made| made.driver == driver)
    }

    /// What keeps a driver loaded that has no devices to drive: registrations, and device objects that nobody uses.
    #[must_use]
    pub fn keeping(&self, driver: Ptr<DRIVER_OBJECT>) -> Vec<Made> {
        let keeps = |made: &Made| match made.kind {
            Tracked::PnpNotification => true,
            Tracked::Device => !device::is_used(Ptr::new(made.id())),
            _ => false,
        };
        self.left(|made| made.driver == driver && keeps(made))
    }

    /// What was made for a device and not taken back: for the physical one, and of `others` what is still there.
    #[must_use]
    pub fn left_for(&self, device: Ptr<DEVICE_OBJECT>, others: &[Ptr<DEVICE_OBJECT>]) -> Vec<Made> {
        let is_other =
            |made: &Made| made.kind == Tracked::Device && others.iter().any(|other| other.address() == made.id());
        self.left(|made| made.device == device || is_other(made))
    }

    /// What of one kind was made for a device.
    #[must_use]
    pub fn of_kind_for(&self, kind: Tracked, device: Ptr<DEVICE_OBJECT>) -> Vec<Made> {
        self.left(|made| made.kind == kind && made.device == device)
    }

    /// By kind, and within that in the order of making.
    fn left(&self, wanted: impl Fn(&Made) -> bool) -> Vec<Made> {
        let mut left: Vec<Made> = self.made.borrow().values().filter(|made| wanted(made)).cloned().collect();
        left.sort_by_key(|made| (made.kind, made.number));
        left
    }
}

/// Stops the run if memory that is given back holds something that is still used.
pub fn check_freed(k: &Kernel, address: u64, length: u64) {
    k.sched.check_freed(address, length);
    let range = address..address.saturating_add(length);
    remove_lock::check_freed(k, &range);
    k.io.resources.check_freed(&range);
    if let Some(item) = k.io.work_items.queued_in(&range) {
        let sentence = "memory is freed that holds a work item which is queued";
        Rule::WorkItemQueued.broken([item, address, length], sentence).raise();
    }
}

/// What is found where these are left; `when` says who left them behind and when. None for none.
#[must_use]
pub fn finding(left: &[Made], when: &str) -> Option<Finding> {
    let first = left.first()?;
    let titles: Vec<String> = left.iter().map(Made::title).collect();
    let sentence = format!("{when}, but left behind: {}", titles.join("; "));
    let place = first.stack.first().copied().unwrap_or(0);
    let finding = match first.kind.rule() {
        Some(rule) => rule.broken([first.id(), left.len() as u64, 0], sentence),
        None if first.kind == Tracked::EtwProvider => {
            Finding::bug_check(VERIFIER, [WITHOUT_ETW_UNREGISTER, place, 0, first.id()], sentence)
        }
        None => Finding::bug_check(UNLOADED_WITHOUT_CANCELLING, [first.id(), 0, place, 0], sentence),
    };
    Some(with_stacks(finding, left))
}

/// Adds where these were made to a finding about them.
#[must_use]
pub fn with_stacks(finding: Finding, left: &[Made]) -> Finding {
    let shown = left.iter().take(SHOWN);
    shown.fold(finding, |finding, made| finding.with_stack(format!("{}, made at", made.title()), &made.stack))
}
