//! QEMU's `edu`: its registers and its interrupt. A device without resources has neither.

use core::{
    cell::UnsafeCell,
    ffi::c_void,
    mem, ptr,
    sync::atomic::{AtomicI64, AtomicPtr, AtomicU64, Ordering},
};

use wdk_sys::{
    _KINTERRUPT, _KINTERRUPT_MODE, BOOLEAN, CM_PARTIAL_RESOURCE_DESCRIPTOR, CM_RESOURCE_INTERRUPT_LATCHED,
    CM_RESOURCE_LIST, CONNECT_FULLY_SPECIFIED, CmResourceTypeInterrupt as INTERRUPT, CmResourceTypeMemory as MEMORY,
    IO_CONNECT_INTERRUPT_FULLY_SPECIFIED_PARAMETERS, IO_CONNECT_INTERRUPT_PARAMETERS,
    IO_DISCONNECT_INTERRUPT_PARAMETERS, IRP, KDPC, KIRQL, NTSTATUS, PAGE_NOCACHE, PAGE_READWRITE, PKINTERRUPT, PVOID,
    STATUS_INSUFFICIENT_RESOURCES, STATUS_SUCCESS,
    ntddk::{
        IoConnectInterruptEx, IoDisconnectInterruptEx, KeFlushQueuedDpcs, KeInitializeDpc, KeInsertQueueDpc,
        MmMapIoSpaceEx, MmUnmapIoSpace,
    },
};

use crate::{
    defect::{self, Hook},
    device::Device,
    irp,
};

/// `edu` registers.
pub const INTERRUPT_STATUS: usize = 0x24;
/// Raises an interrupt.
pub const RAISE: usize = 0x60;
/// Acknowledges interrupts.
pub const ACKNOWLEDGE: usize = 0x64;

/// Registers and interrupt, while the device is started.
pub struct Hardware {
    registers: AtomicPtr<c_void>,
    length: AtomicU64,
    physical: AtomicI64,
    interrupt: UnsafeCell<PKINTERRUPT>,
    connection: UnsafeCell<IO_CONNECT_INTERRUPT_PARAMETERS>,
    dpc: UnsafeCell<KDPC>,
}

impl Hardware {
    /// None yet.
    pub fn new() -> Self {
        Self {
            registers: AtomicPtr::new(ptr::null_mut()),
            length: AtomicU64::new(0),
            physical: AtomicI64::new(0),
            interrupt: UnsafeCell::new(ptr::null_mut()),
            connection: UnsafeCell::new(IO_CONNECT_INTERRUPT_PARAMETERS::default()),
            dpc: UnsafeCell::new(KDPC::default()),
        }
    }

    /// Initializes the DPC of a device that lies where it stays.
    pub fn prepare(&self, device: &Device) {
        // SAFETY: the DPC lies in the extension, which outlives it.
        unsafe { KeInitializeDpc(self.dpc.get(), Some(after_interrupt), ptr::from_ref(device).cast_mut().cast()) };
    }

    /// Where the registers are mapped; null while they are not.
    pub fn registers(&self) -> *mut u32 {
        self.registers.load(Ordering::Relaxed).cast()
    }

    /// Their physical address.
    pub fn physical(&self) -> i64 {
        self.physical.load(Ordering::Relaxed)
    }

    /// The connected interrupt; null while there is none.
    pub fn interrupt(&self) -> PKINTERRUPT {
        // SAFETY: written by a start and a stop only, which nothing else runs beside.
        unsafe { *self.interrupt.get() }
    }

    /// What the interrupt was connected with, fully specified.
    pub const fn connection(&self) -> IO_CONNECT_INTERRUPT_PARAMETERS {
        // SAFETY: written by a start only, which nothing else runs beside.
        unsafe { *self.connection.get() }
    }

    /// The DPC that the interrupt service routine queues.
    pub const fn dpc(&self) -> *mut KDPC {
        self.dpc.get()
    }

    /// Reads a register of a started `edu`.
    pub fn read(&self, register: usize) -> u32 {
        let place = self.registers().wrapping_byte_add(register);
        // SAFETY: the registers are mapped while the device is started.
        unsafe { place.read_volatile() }
    }

    /// Writes a register of a started `edu`.
    pub fn write(&self, register: usize, value: u32) {
        let place = self.registers().wrapping_byte_add(register);
        // SAFETY: the registers are mapped while the device is started.
        unsafe { place.write_volatile(value) };
    }

    /// Maps the registers and connects the interrupt, where there are some.
    ///
    /// # Safety
    /// The IRP is a start's.
    pub unsafe fn connect(&self, device: &Device, irp: *mut IRP) -> NTSTATUS {
        // SAFETY: as the caller promises.
        let stack = unsafe { irp::stack_location(irp) };
        // SAFETY: it has a location for us.
        let stack = unsafe { &*stack };
        // SAFETY: as the caller promises.
        let list = unsafe { stack.Parameters.StartDevice.AllocatedResourcesTranslated };
        if list.is_null() {
            return STATUS_SUCCESS;
        }
        // SAFETY: the PnP manager passes a list.
        let status = unsafe { self.take(device, list) };
        if status < STATUS_SUCCESS {
            self.disconnect();
        }
        status
    }

    /// # Safety
    /// `list` is a list of resources of a device with one interface, as `edu` is.
    unsafe fn take(&self, device: &Device, list: *const CM_RESOURCE_LIST) -> NTSTATUS {
        // SAFETY: as the caller promises; only the address of the member is taken.
        let partial = unsafe { &raw const (*list).List[0].PartialResourceList };
        // SAFETY: as above.
        let count = unsafe { &raw const (*partial).Count };
        // SAFETY: as above; it may be unaligned.
        let count = unsafe { count.read_unaligned() };
        // SAFETY: as above.
        let first = unsafe { (&raw const (*partial).PartialDescriptors).cast::<CM_PARTIAL_RESOURCE_DESCRIPTOR>() };
        for index in 0..count as usize {
            // SAFETY: the list has `count` descriptors.
            let descriptor = unsafe { first.wrapping_add(index).read_unaligned() };
            let status = match u32::from(descriptor.Type) {
                MEMORY => self.map(&descriptor),
                INTERRUPT => self.listen(device, &descriptor),
                _ => STATUS_SUCCESS,
            };
            if status < STATUS_SUCCESS {
                return status;
            }
        }
        STATUS_SUCCESS
    }

    fn map(&self, descriptor: &CM_PARTIAL_RESOURCE_DESCRIPTOR) -> NTSTATUS {
        // SAFETY: the descriptor is one of memory.
        let memory = unsafe { descriptor.u.Memory };
        let (start, length) = (memory.Start, u64::from(memory.Length));
        // SAFETY: the registers are ours; IRQL is PASSIVE_LEVEL.
        let mapped = unsafe { MmMapIoSpaceEx(start, length, PAGE_READWRITE | PAGE_NOCACHE) };
        if mapped.is_null() {
            return STATUS_INSUFFICIENT_RESOURCES;
        }
        self.length.store(length, Ordering::Relaxed);
        // SAFETY: the whole of the union.
        self.physical.store(unsafe { start.QuadPart }, Ordering::Relaxed);
        self.registers.store(mapped, Ordering::Relaxed);
        STATUS_SUCCESS
    }

    fn listen(&self, device: &Device, descriptor: &CM_PARTIAL_RESOURCE_DESCRIPTOR) -> NTSTATUS {
        // SAFETY: the descriptor is one of an interrupt; a translated message has the same layout.
        let interrupt = unsafe { descriptor.u.Interrupt };
        let latched = u32::from(descriptor.Flags) & CM_RESOURCE_INTERRUPT_LATCHED != 0;
        let Ok(irql) = KIRQL::try_from(interrupt.Level & 0xFF) else { return STATUS_INSUFFICIENT_RESOURCES };
        let mode = if latched { _KINTERRUPT_MODE::Latched } else { _KINTERRUPT_MODE::LevelSensitive };
        let chosen = defect::at(|hook, _| match hook {
            Hook::Service(routine) => Some(*routine),
            _ => None,
        });
        let mut parameters = IO_CONNECT_INTERRUPT_PARAMETERS { Version: CONNECT_FULLY_SPECIFIED, ..Default::default() };
        parameters.__bindgen_anon_1.FullySpecified = IO_CONNECT_INTERRUPT_FULLY_SPECIFIED_PARAMETERS {
            PhysicalDeviceObject: device.physical,
            InterruptObject: self.interrupt.get(),
            ServiceRoutine: Some(chosen.unwrap_or(service)),
            ServiceContext: ptr::from_ref(device).cast_mut().cast(),
            ShareVector: u8::from(!latched),
            SynchronizeIrql: irql,
            Irql: irql,
            Vector: interrupt.Vector,
            InterruptMode: mode,
            ProcessorEnableMask: interrupt.Affinity,
            ..Default::default()
        };
        // SAFETY: nothing else runs beside a start.
        unsafe { *self.connection.get() = parameters };
        // SAFETY: IRQL is PASSIVE_LEVEL; the device outlives the connection.
        unsafe { IoConnectInterruptEx(&raw mut parameters) }
    }

    /// Disconnects the interrupt and unmaps the registers, if there are some.
    pub fn disconnect(&self) {
        self.stop_listening();
        self.unmap();
    }

    /// Unmaps the registers.
    pub fn unmap(&self) {
        let registers = self.registers.swap(ptr::null_mut(), Ordering::Relaxed);
        if !registers.is_null() {
            // SAFETY: mapped by `map`; nothing uses them any more.
            unsafe { MmUnmapIoSpace(registers, self.length.load(Ordering::Relaxed)) };
        }
    }

    /// Disconnects the interrupt and waits for what it has queued.
    pub fn stop_listening(&self) {
        if self.disconnect_interrupt() {
            // SAFETY: IRQL is PASSIVE_LEVEL.
            unsafe { KeFlushQueuedDpcs() };
        }
    }

    /// Disconnects the interrupt, if it is connected.
    pub fn disconnect_interrupt(&self) -> bool {
        let interrupt = self.interrupt();
        if interrupt.is_null() {
            return false;
        }
        // SAFETY: all members are integers and pointers, for which zero is a value.
        let mut parameters: IO_DISCONNECT_INTERRUPT_PARAMETERS = unsafe { mem::zeroed() };
        parameters.Version = CONNECT_FULLY_SPECIFIED;
        parameters.ConnectionContext.InterruptObject = interrupt;
        // SAFETY: connected by `listen`; IRQL is PASSIVE_LEVEL.
        unsafe { IoDisconnectInterruptEx(&raw mut parameters) };
        // SAFETY: the service routine queues no more DPCs, and nobody else writes this.
        unsafe { *self.interrupt.get() = ptr::null_mut() };
        true
    }
}

/// "`KSERVICE_ROUTINE` callback function".
unsafe extern "C" fn service(_interrupt: *mut _KINTERRUPT, context: PVOID) -> BOOLEAN {
    // SAFETY: the context is the device that `listen` passed, which disconnects before it goes.
    let device = unsafe { &*context.cast::<Device>() };
    let served = defect::at(|hook, correct| match hook {
        Hook::Isr(act) => Some(act(device, correct)),
        _ => None,
    });
    served.unwrap_or_else(|| acknowledge(device)).into()
}

/// Acknowledges what the device has raised and queues the DPC; false if it has raised nothing.
pub fn acknowledge(device: &Device) -> bool {
    let raised = device.hardware.read(INTERRUPT_STATUS);
    if raised == 0 {
        return false;
    }
    device.hardware.write(ACKNOWLEDGE, raised);
    // SAFETY: the DPC was initialized in `prepare`.
    unsafe { KeInsertQueueDpc(device.hardware.dpc(), ptr::null_mut(), ptr::null_mut()) };
    true
}

/// "`KDEFERRED_ROUTINE` callback function".
unsafe extern "C" fn after_interrupt(_dpc: *mut KDPC, context: PVOID, _: PVOID, _: PVOID) {
    // SAFETY: the context is the device that `prepare` passed; its DPCs are flushed before it goes.
    let device = unsafe { &*context.cast::<Device>() };
    defect::at(|hook, correct| match hook {
        Hook::Dpc(act) => Some(act(device, correct)),
        _ => None,
    });
}
