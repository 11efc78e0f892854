//! DPCs and timers.

use windows_sys::{
    Wdk::{Foundation::KDPC, System::SystemServices::KTIMER},
    Win32::{Foundation::STATUS_INVALID_PARAMETER, System::Kernel::PROCESSOR_NUMBER},
};

use super::Export;
use crate::{
    export,
    finding::Finding,
    hot_add,
    irql::{DISPATCH_LEVEL, PASSIVE_LEVEL, any_level, at_most, exactly},
    kernel::Kernel,
    memory::Ptr,
};

/// The functions of this module.
pub const FUNCTIONS: &[Export] = &[
    export!("KeInitializeDpc", any_level(), ke_initialize_dpc),
    export!("KeInsertQueueDpc", any_level(), ke_insert_queue_dpc),
    export!("KeRemoveQueueDpc", any_level(), ke_remove_queue_dpc),
    export!("KeFlushQueuedDpcs", exactly(PASSIVE_LEVEL), ke_flush_queued_dpcs),
    export!("KeSetImportanceDpc", any_level(), ke_set_importance_dpc),
    export!("KeSetTargetProcessorDpc", any_level(), ke_set_target_processor_dpc),
    export!("KeSetTargetProcessorDpcEx", any_level(), ke_set_target_processor_dpc_ex),
    export!("KeInitializeTimer", at_most(DISPATCH_LEVEL), ke_initialize_timer),
    export!("KeInitializeTimerEx", at_most(DISPATCH_LEVEL), ke_initialize_timer_ex),
    export!("KeSetTimer", at_most(DISPATCH_LEVEL), ke_set_timer),
    export!("KeSetTimerEx", at_most(DISPATCH_LEVEL), ke_set_timer_ex),
    export!("KeSetCoalescableTimer", at_most(DISPATCH_LEVEL), ke_set_coalescable_timer),
    export!("KeCancelTimer", at_most(DISPATCH_LEVEL), ke_cancel_timer),
    export!("KeReadStateTimer", at_most(DISPATCH_LEVEL), ke_read_state_timer),
];

/// "`KeInitializeDpc` function".
fn ke_initialize_dpc(k: &Kernel, dpc: Ptr<KDPC>, routine: u64, context: u64) {
    k.sched.initialize_dpc(dpc, routine, context);
}

/// "`KeInsertQueueDpc` function".
fn ke_insert_queue_dpc(k: &Kernel, dpc: Ptr<KDPC>, argument1: u64, argument2: u64) -> bool {
    k.pnp.connections.note_dpc(k, dpc);
    k.queue_dpc(dpc, [argument1, argument2])
}

/// "`KeRemoveQueueDpc` function".
fn ke_remove_queue_dpc(k: &Kernel, dpc: Ptr<KDPC>) -> bool {
    k.sched.remove_dpc(dpc)
}

/// "`KeFlushQueuedDpcs` function".
fn ke_flush_queued_dpcs(k: &Kernel) {
    k.sched.flush_dpcs(k);
}

/// "`KeSetImportanceDpc` function".
fn ke_set_importance_dpc(k: &Kernel, dpc: Ptr<KDPC>, importance: i32) {
    match u8::try_from(importance) {
        Ok(importance) if importance <= 3 => k.sched.set_dpc_importance(dpc, importance),
        _ => Finding::not_modelled(format!("KeSetImportanceDpc: importance {importance}")).raise(),
    }
}

/// "`KeSetTargetProcessorDpc` function": a processor of group 0.
fn ke_set_target_processor_dpc(k: &Kernel, dpc: Ptr<KDPC>, number: u8) {
    match k.sched.topology.active_index(0, number) {
        Some(index) => k.sched.set_dpc_target(dpc, index),
        None => hot_add::inactive_processor("KeSetTargetProcessorDpc", 0, number).raise(),
    }
}

/// "`KeSetTargetProcessorDpcEx` function". A processor that is being added is no valid processor number yet; one that never was active,
/// and is not on its way, is a mistake.
fn ke_set_target_processor_dpc_ex(k: &Kernel, dpc: Ptr<KDPC>, number: Ptr<PROCESSOR_NUMBER>) -> i32 {
    let PROCESSOR_NUMBER { Group, Number, Reserved } = number.read();
    match k.sched.topology.active_index(Group, Number) {
        Some(index) if Reserved == 0 => {
            k.sched.set_dpc_target(dpc, index);
            0
        }
        _ if k.hot_add.is_busy() => STATUS_INVALID_PARAMETER,
        _ => hot_add::inactive_processor("KeSetTargetProcessorDpcEx", Group, Number).raise(),
    }
}

/// "`KeInitializeTimer` function".
fn ke_initialize_timer(k: &Kernel, timer: Ptr<KTIMER>) {
    k.sched.initialize_timer(timer, true);
}

/// "`KeInitializeTimerEx` function".
fn ke_initialize_timer_ex(k: &Kernel, timer: Ptr<KTIMER>, kind: i32) {
    match kind {
        0 => k.sched.initialize_timer(timer, true),
        1 => k.sched.initialize_timer(timer, false),
        _ => Finding::not_modelled(format!("KeInitializeTimerEx: timer type {kind}")).raise(),
    }
}

/// "`KeSetTimer` function".
fn ke_set_timer(k: &Kernel, timer: Ptr<KTIMER>, due: i64, dpc: Ptr<KDPC>) -> bool {
    ke_set_timer_ex(k, timer, due, 0, dpc)
}

/// "`KeSetTimerEx` function".
fn ke_set_timer_ex(k: &Kernel, timer: Ptr<KTIMER>, due: i64, period: i32, dpc: Ptr<KDPC>) -> bool {
    let Ok(period) = u32::try_from(period) else {
        Finding::not_modelled(format!("KeSetTimerEx: period {period}")).raise();
    };
    k.sched.set_timer(k, timer, k.sched.due(due).saturating_sub(k.now()), period, dpc)
}

/// "`KeSetCoalescableTimer` function". The system may be as exact as it likes: here it goes off in time.
fn ke_set_coalescable_timer(
    k: &Kernel,
    timer: Ptr<KTIMER>,
    due: i64,
    period: u32,
    _tolerable_delay: u32,
    dpc: Ptr<KDPC>,
) -> bool {
    k.sched.set_timer(k, timer, k.sched.due(due).saturating_sub(k.now()), period, dpc)
}

/// "`KeCancelTimer` function".
fn ke_cancel_timer(k: &Kernel, timer: Ptr<KTIMER>) -> bool {
    k.sched.cancel_timer(timer)
}

/// "`KeReadStateTimer` function".
fn ke_read_state_timer(_: &Kernel, timer: Ptr<KTIMER>) -> bool {
    crate::at!(timer, Header.SignalState).read() != 0
}
