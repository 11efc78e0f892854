//! Packets: sending, completing, cancelling, queues.

use windows_sys::{
    Wdk::{
        Foundation::IRP,
        System::SystemServices::{IO_CSQ, IO_CSQ_IRP_CONTEXT},
    },
    Win32::Foundation::{NTSTATUS, STATUS_SUCCESS},
};

use super::Export;
use crate::{
    export,
    io::{
        cancel, csq,
        irp::{self, Owner},
    },
    irql::{DISPATCH_LEVEL, Irql, any_level, at_most, exactly},
    kernel::Kernel,
    memory::Ptr,
    tracking::Tracked,
};

/// The functions of this module.
pub const FUNCTIONS: &[Export] = &[
    export!("IofCallDriver", at_most(DISPATCH_LEVEL), irp::call_driver),
    export!("IofCompleteRequest", at_most(DISPATCH_LEVEL), iof_complete_request),
    export!("IoAllocateIrp", at_most(DISPATCH_LEVEL), io_allocate_irp),
    export!("IoFreeIrp", at_most(DISPATCH_LEVEL), irp::free_by_driver),
    export!("IoReuseIrp", at_most(DISPATCH_LEVEL), irp::reuse),
    export!("IoInitializeIrp", at_most(DISPATCH_LEVEL), io_initialize_irp),
    export!("IoCancelIrp", at_most(DISPATCH_LEVEL), cancel::cancel),
    export!("IoAcquireCancelSpinLock", at_most(DISPATCH_LEVEL), io_acquire_cancel_spin_lock),
    export!("IoReleaseCancelSpinLock", exactly(DISPATCH_LEVEL), io_release_cancel_spin_lock),
    export!("IoCsqInitialize", any_level(), io_csq_initialize),
    export!("IoCsqInitializeEx", any_level(), io_csq_initialize_ex),
    export!("IoCsqInsertIrp", at_most(DISPATCH_LEVEL), io_csq_insert_irp),
    export!("IoCsqInsertIrpEx", at_most(DISPATCH_LEVEL), csq::insert),
    export!("IoCsqRemoveIrp", at_most(DISPATCH_LEVEL), csq::remove_one),
    export!("IoCsqRemoveNextIrp", at_most(DISPATCH_LEVEL), csq::remove_next),
];

/// "`IoCompleteRequest` macro". The priority boost has no meaning here: the choice of who runs next is the seed's.
fn iof_complete_request(k: &Kernel, packet: Ptr<IRP>, _priority_boost: i8) {
    irp::complete_by_driver(k, packet);
}

/// "`IoAllocateIrp` function". Quota is not charged.
fn io_allocate_irp(k: &Kernel, stack_size: i8, _charge_quota: bool) -> Ptr<IRP> {
    let packet = irp::allocate(k, stack_size, Owner::Driver);
    k.tracking.made_often(k, Tracked::Irp, packet.address());
    packet
}

/// "`IoInitializeIrp` function".
fn io_initialize_irp(k: &Kernel, packet: Ptr<IRP>, _packet_size: u16, stack_size: i8) {
    irp::initialize_foreign(k, packet, stack_size);
}

/// "`IoAcquireCancelSpinLock` function".
fn io_acquire_cancel_spin_lock(k: &Kernel, irql: Ptr<u8>) {
    irql.write(cancel::acquire_lock(k).0);
}

/// "`IoReleaseCancelSpinLock` function".
fn io_release_cancel_spin_lock(k: &Kernel, irql: u8) {
    cancel::release_lock(k, Irql(irql));
}

/// "`IoCsqInitialize` function".
#[allow(clippy::too_many_arguments, reason = "the DDI has them")]
fn io_csq_initialize(
    _k: &Kernel,
    queue: Ptr<IO_CSQ>,
    insert: u64,
    remove: u64,
    peek: u64,
    acquire: u64,
    release: u64,
    complete_cancelled: u64,
) -> NTSTATUS {
    csq::initialize(queue, [insert, remove, peek, acquire, release, complete_cancelled], false);
    STATUS_SUCCESS
}

/// "`IoCsqInitializeEx` function".
#[allow(clippy::too_many_arguments, reason = "the DDI has them")]
fn io_csq_initialize_ex(
    _k: &Kernel,
    queue: Ptr<IO_CSQ>,
    insert: u64,
    remove: u64,
    peek: u64,
    acquire: u64,
    release: u64,
    complete_cancelled: u64,
) -> NTSTATUS {
    csq::initialize(queue, [insert, remove, peek, acquire, release, complete_cancelled], true);
    STATUS_SUCCESS
}

/// "`IoCsqInsertIrp` function".
fn io_csq_insert_irp(k: &Kernel, queue: Ptr<IO_CSQ>, packet: Ptr<IRP>, context: Ptr<IO_CSQ_IRP_CONTEXT>) {
    csq::insert(k, queue, packet, context, 0);
}
