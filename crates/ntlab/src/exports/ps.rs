//! Threads.

use windows_sys::{Wdk::Foundation::OBJECT_ATTRIBUTES, Win32::Foundation::OBJ_KERNEL_HANDLE};

use super::Export;
use crate::{
    at, export,
    finding::Finding,
    io::{handle, object},
    irql::{PASSIVE_LEVEL, any_level, exactly},
    kernel::Kernel,
    memory::Ptr,
    sched::ThreadExit,
    tracking::Tracked,
};

/// The functions of this module.
pub const FUNCTIONS: &[Export] = &[
    export!("PsCreateSystemThread", exactly(PASSIVE_LEVEL), ps_create_system_thread),
    export!("PsTerminateSystemThread", exactly(PASSIVE_LEVEL), ps_terminate_system_thread),
    export!("PsGetCurrentThread", any_level(), current_thread),
    export!("KeGetCurrentThread", any_level(), current_thread),
    export!("PsGetCurrentThreadId", any_level(), ps_get_current_thread_id),
    export!("KeSetPriorityThread", exactly(PASSIVE_LEVEL), ke_set_priority_thread),
    export!("KeQueryPriorityThread", exactly(PASSIVE_LEVEL), ke_query_priority_thread),
    export!("KeSetBasePriorityThread", exactly(PASSIVE_LEVEL), ke_set_base_priority_thread),
];

/// "`PsCreateSystemThread` function". The attributes say whose the handle is.
#[allow(clippy::too_many_arguments, reason = "it has so many")]
fn ps_create_system_thread(
    k: &Kernel,
    handle: Ptr<u64>,
    access: u32,
    attributes: Ptr<OBJECT_ATTRIBUTES>,
    process: u64,
    client_id: Ptr<u64>,
    routine: u64,
    context: u64,
) -> i32 {
    if process != 0 || !client_id.is_null() {
        Finding::not_modelled("PsCreateSystemThread: ProcessHandle and ClientId").raise();
    }
    let thread = k.sched.spawn_counted(k, "system thread", move |k| {
        k.sched.enter_critical_region(k);
        k.call("system thread", routine, &[context]);
        k.tracking.gone(Tracked::Thread, k.current_thread_object());
    });
    k.tracking.made(k, Tracked::Thread, thread, String::new);
    object::reference(k, thread);
    let kernel = !attributes.is_null() && at!(attributes, Attributes).read() & OBJ_KERNEL_HANDLE != 0;
    handle.write(k.io.handles.open(k, handle::Target::Object(thread), access, kernel));
    0
}

/// "`PsTerminateSystemThread` function": does not return.
fn ps_terminate_system_thread(k: &Kernel, status: i32) -> i32 {
    if !k.current_thread().is_system() {
        let sentence = "PsTerminateSystemThread called by a thread that PsCreateSystemThread did not make";
        Finding::bug_check(crate::sched::VERIFIER, [0; 4], sentence).raise();
    }
    k.tracking.gone(Tracked::Thread, k.current_thread_object());
    ThreadExit { status }.raise()
}

/// "`PsGetCurrentThread` function", "`KeGetCurrentThread` function".
fn current_thread(k: &Kernel) -> u64 {
    k.current_thread_object()
}

/// "`PsGetCurrentThreadId` function". Thread identifiers are multiples of 4.
fn ps_get_current_thread_id(k: &Kernel) -> u64 {
    u64::from(k.thread_id().0) * 4
}

/// The priority of a thread that nobody has changed; also what base priorities are relative to.
const NORMAL_PRIORITY: i32 = 8;
/// The highest real-time priority.
const HIGHEST_PRIORITY: i32 = 31;

fn change_priority(k: &Kernel, thread: u64, priority: i32) -> i32 {
    k.sched.priorities.borrow_mut().insert(thread, priority).unwrap_or(NORMAL_PRIORITY)
}

/// "`KeSetPriorityThread` function". Who runs next is the seed's choice, whatever the priorities: a driver must be right in any order.
fn ke_set_priority_thread(k: &Kernel, thread: u64, priority: i32) -> i32 {
    if !(1..=HIGHEST_PRIORITY).contains(&priority) {
        Finding::not_modelled(format!("KeSetPriorityThread: priority {priority}")).raise();
    }
    change_priority(k, thread, priority)
}

/// "`KeQueryPriorityThread` function".
fn ke_query_priority_thread(k: &Kernel, thread: u64) -> i32 {
    k.sched.priorities.borrow().get(&thread).copied().unwrap_or(NORMAL_PRIORITY)
}

/// "`KeSetBasePriorityThread` function": the increment before.
fn ke_set_base_priority_thread(k: &Kernel, thread: u64, increment: i32) -> i32 {
    change_priority(k, thread, NORMAL_PRIORITY + increment) - NORMAL_PRIORITY
}
