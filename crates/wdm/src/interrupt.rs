//! Interrupts ("Registering an ISR", "Removing an ISR").

use core::cell::UnsafeCell;
use core::mem;
use core::ops::Deref;
use core::ptr;

use wdk_sys::{
    _KINTERRUPT, _KINTERRUPT_MODE, BOOLEAN, CONNECT_FULLY_SPECIFIED, CONNECT_FULLY_SPECIFIED_GROUP,
    CONNECT_MESSAGE_BASED, IO_CONNECT_INTERRUPT_FULLY_SPECIFIED_PARAMETERS,
    IO_CONNECT_INTERRUPT_MESSAGE_BASED_PARAMETERS, IO_CONNECT_INTERRUPT_PARAMETERS, IO_DISCONNECT_INTERRUPT_PARAMETERS,
    IO_INTERRUPT_MESSAGE_INFO, KIRQL, PVOID, ULONG, ntddk,
};

use crate::device::Pdo;
use crate::irql::{DeviceIrql, Passive};
use crate::kernel::{NO, YES};
use crate::pool::{PoolBox, Tag};
use crate::resources::InterruptResource;
use crate::status::{NtStatus, Result, check};

/// What an interrupt service routine does.
pub trait InterruptService: Send + Sync + 'static {
    /// Acknowledges the interrupt and queues a DPC; says whether it was the device's. `message` is 0 for a line. IRQL:
    /// DIRQL.
    fn service(&self, message: u32, irql: DeviceIrql<'_>) -> bool;
}

/// How an interrupt is connected.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Connection {
    /// As messages, so many of them.
    Messages(u32),
    /// As one line.
    Line,
}

/// A connected interrupt. Dropping it disconnects; then nothing runs the service routine, and the service is dropped.
pub struct Interrupt<S: InterruptService> {
    block: PoolBox<Block<S>>,
    /// The version of the call that connected.
    version: ULONG,
}

struct Block<S> {
    /// An interrupt object, or for messages a table of them; written by the kernel when it connects.
    connection: UnsafeCell<PVOID>,
    service: S,
}

// SAFETY: the connection is written once, before the interrupt is shared.
unsafe impl<S: Send> Send for Block<S> {}
// SAFETY: as above.
unsafe impl<S: Sync> Sync for Block<S> {}

impl<S: InterruptService> Interrupt<S> {
    /// Connects the interrupt `resource`, a translated one: as messages where it is message-signaled, else as a line
    /// with the processors and the group of the resource ("`IoConnectInterruptEx` function"). The service routine may
    /// run before this returns.
    ///
    /// IRQL: PASSIVE_LEVEL.
    ///
    /// # Errors
    ///
    /// `INSUFFICIENT_RESOURCES` where there is no memory, `INVALID_PARAMETER` for a level that is none, or what the
    /// kernel function returns.
    pub fn connect(tag: Tag, pdo: &Pdo, resource: &InterruptResource, service: S, _: Passive<'_>) -> Result<Self> {
        let irql = KIRQL::try_from(resource.level).map_err(|_| NtStatus::INVALID_PARAMETER)?;
        let block = PoolBox::new(tag, Block { connection: UnsafeCell::new(ptr::null_mut()), service })?;
        let mut parameters = IO_CONNECT_INTERRUPT_PARAMETERS::default();
        if resource.message {
            parameters.Version = CONNECT_MESSAGE_BASED;
            parameters.__bindgen_anon_1.MessageBased = message_based(pdo, &block);
            // SAFETY: PASSIVE_LEVEL at the caller; the parameters outlive the call, and the block the connection.
            let connected = check(unsafe { ntddk::IoConnectInterruptEx(&raw mut parameters) });
            // Lower after a failure means: not on this platform, try again that way.
            if connected.is_ok() || parameters.Version != CONNECT_FULLY_SPECIFIED {
                return connected.map(|()| Self { block, version: parameters.Version });
            }
        }
        parameters.Version = CONNECT_FULLY_SPECIFIED_GROUP;
        parameters.__bindgen_anon_1.FullySpecified = fully_specified(pdo, &block, resource, irql);
        // SAFETY: as above.
        check(unsafe { ntddk::IoConnectInterruptEx(&raw mut parameters) })?;
        Ok(Self { block, version: parameters.Version })
    }

    /// How it is connected: as messages, or as a line although messages were asked for.
    ///
    /// IRQL: any.
    #[must_use]
    pub fn connection(&self) -> Connection {
        if self.version != CONNECT_MESSAGE_BASED {
            return Connection::Line;
        }
        let table = self.block.connection().cast::<IO_INTERRUPT_MESSAGE_INFO>();
        // SAFETY: for this version the kernel gave a table that lives while the interrupt is connected.
        Connection::Messages(unsafe { (*table).MessageCount })
    }
}

impl<S> Block<S> {
    const fn connection(&self) -> PVOID {
        // SAFETY: written when the interrupt was connected, and not since.
        unsafe { *self.connection.get() }
    }
}

fn message_based<S: InterruptService>(
    pdo: &Pdo,
    block: &PoolBox<Block<S>>,
) -> IO_CONNECT_INTERRUPT_MESSAGE_BASED_PARAMETERS {
    let mut parameters = IO_CONNECT_INTERRUPT_MESSAGE_BASED_PARAMETERS {
        PhysicalDeviceObject: pdo.as_ptr(),
        MessageServiceRoutine: Some(message_service::<S>),
        ServiceContext: block.as_ptr().cast(),
        FallBackServiceRoutine: Some(line_service::<S>),
        ..Default::default()
    };
    parameters.ConnectionContext.Generic = block.connection.get();
    parameters
}

fn fully_specified<S: InterruptService>(
    pdo: &Pdo,
    block: &PoolBox<Block<S>>,
    resource: &InterruptResource,
    irql: KIRQL,
) -> IO_CONNECT_INTERRUPT_FULLY_SPECIFIED_PARAMETERS {
    let latched = _KINTERRUPT_MODE::Latched;
    IO_CONNECT_INTERRUPT_FULLY_SPECIFIED_PARAMETERS {
        PhysicalDeviceObject: pdo.as_ptr(),
        InterruptObject: block.connection.get().cast(),
        ServiceRoutine: Some(line_service::<S>),
        ServiceContext: block.as_ptr().cast(),
        SpinLock: ptr::null_mut(),
        SynchronizeIrql: irql,
        FloatingSave: NO,
        ShareVector: if resource.shared { YES } else { NO },
        Vector: resource.vector,
        Irql: irql,
        InterruptMode: if resource.latched { latched } else { _KINTERRUPT_MODE::LevelSensitive },
        ProcessorEnableMask: resource.affinity,
        Group: resource.group,
    }
}

impl<S: InterruptService> Deref for Interrupt<S> {
    type Target = S;

    fn deref(&self) -> &S {
        &self.block.service
    }
}

impl<S: InterruptService> Drop for Interrupt<S> {
    /// IRQL: PASSIVE_LEVEL.
    fn drop(&mut self) {
        // SAFETY: all members are integers and pointers, for which zero is a value.
        let mut parameters: IO_DISCONNECT_INTERRUPT_PARAMETERS = unsafe { mem::zeroed() };
        parameters.Version = self.version;
        parameters.ConnectionContext.Generic = self.block.connection();
        // SAFETY: the version and the context of the call that connected; the service routine does not run any more
        // afterwards.
        unsafe { ntddk::IoDisconnectInterruptEx(&raw mut parameters) };
    }
}

/// IRQL: DIRQL.
unsafe extern "C" fn line_service<S: InterruptService>(interrupt: *mut _KINTERRUPT, context: PVOID) -> BOOLEAN {
    // SAFETY: called as `message_service` is.
    unsafe { message_service::<S>(interrupt, context, 0) }
}

/// IRQL: DIRQL.
unsafe extern "C" fn message_service<S: InterruptService>(
    _: *mut _KINTERRUPT,
    context: PVOID,
    message: ULONG,
) -> BOOLEAN {
    // SAFETY: the block that `connect` passed; it lives until the interrupt is disconnected.
    let block = unsafe { &*context.cast::<Block<S>>() };
    // SAFETY: this is an interrupt service routine.
    let irql = unsafe { DeviceIrql::assume() };
    if block.service.service(message, irql) { YES } else { NO }
}
