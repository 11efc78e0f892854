//! Lists and counters that are changed under a spin lock ("Singly and Doubly Linked Lists"). A kernel call is one step of the machine, so
//! that the lock need not be taken; it must not be used in any other way.

use windows_sys::Win32::System::Kernel::{LIST_ENTRY, SINGLE_LIST_ENTRY};

use super::Export;
use crate::{
    at, export,
    finding::Finding,
    io::layout::{load, store},
    irql::any_level,
    kernel::Kernel,
    memory::Ptr,
    sched::VERIFIER,
};

/// The functions of this module.
pub const FUNCTIONS: &[Export] = &[
    export!("ExInterlockedInsertHeadList", any_level(), ex_interlocked_insert_head_list),
    export!("ExInterlockedInsertTailList", any_level(), ex_interlocked_insert_tail_list),
    export!("ExInterlockedRemoveHeadList", any_level(), ex_interlocked_remove_head_list),
    export!("ExInterlockedPushEntryList", any_level(), ex_interlocked_push_entry_list),
    export!("ExInterlockedPopEntryList", any_level(), ex_interlocked_pop_entry_list),
    export!("ExInterlockedAddUlong", any_level(), ex_interlocked_add_ulong),
    export!("ExInterlockedAddLargeInteger", any_level(), ex_interlocked_add_large_integer),
];

type List = Ptr<LIST_ENTRY>;

/// The lock is for these functions alone.
fn check_lock(lock: Ptr<u64>) {
    if lock.read() != 0 {
        let sentence =
            "the spin lock of an interlocked list or counter is held: it is for ExInterlockedXxx functions alone";
        Finding::bug_check(VERIFIER, [0, lock.address(), 0, 0], sentence).raise();
    }
}

fn insert(before: List, entry: List) {
    let last = load(at!(before, Blink));
    store(at!(entry, Flink), before);
    store(at!(entry, Blink), last);
    store(at!(last, Flink), entry);
    store(at!(before, Blink), entry);
}

fn or_null(head: List, entry: List) -> List {
    if entry == head { Ptr::null() } else { entry }
}

/// "`ExInterlockedInsertHeadList` function": the first entry before.
fn ex_interlocked_insert_head_list(_: &Kernel, head: List, entry: List, lock: Ptr<u64>) -> List {
    check_lock(lock);
    let first = load(at!(head, Flink));
    insert(first, entry);
    or_null(head, first)
}

/// "`ExInterlockedInsertTailList` function": the last entry before.
fn ex_interlocked_insert_tail_list(_: &Kernel, head: List, entry: List, lock: Ptr<u64>) -> List {
    check_lock(lock);
    let last = load(at!(head, Blink));
    insert(head, entry);
    or_null(head, last)
}

/// "`ExInterlockedRemoveHeadList` function".
fn ex_interlocked_remove_head_list(_: &Kernel, head: List, lock: Ptr<u64>) -> List {
    check_lock(lock);
    let first = load(at!(head, Flink));
    if first == head {
        return Ptr::null();
    }
    let next = load(at!(first, Flink));
    store(at!(head, Flink), next);
    store(at!(next, Blink), head);
    first
}

/// "`ExInterlockedPushEntryList` function": the first entry before.
fn ex_interlocked_push_entry_list(
    _: &Kernel,
    head: Ptr<SINGLE_LIST_ENTRY>,
    entry: Ptr<SINGLE_LIST_ENTRY>,
    lock: Ptr<u64>,
) -> Ptr<SINGLE_LIST_ENTRY> {
    check_lock(lock);
    let first = load(at!(head, Next));
    store(at!(entry, Next), first);
    store(at!(head, Next), entry);
    first
}

/// "`ExInterlockedPopEntryList` function".
fn ex_interlocked_pop_entry_list(_: &Kernel, head: Ptr<SINGLE_LIST_ENTRY>, lock: Ptr<u64>) -> Ptr<SINGLE_LIST_ENTRY> {
    check_lock(lock);
    let first = load(at!(head, Next));
    if !first.is_null() {
        store(at!(head, Next), load(at!(first, Next)));
    }
    first
}

/// "`ExInterlockedAddUlong` function": the value before.
fn ex_interlocked_add_ulong(_: &Kernel, place: Ptr<u32>, increment: u32, lock: Ptr<u64>) -> u32 {
    check_lock(lock);
    let before = place.read();
    place.write(before.wrapping_add(increment));
    before
}

/// "`ExInterlockedAddLargeInteger` function": the value before.
fn ex_interlocked_add_large_integer(_: &Kernel, place: Ptr<i64>, increment: i64, lock: Ptr<u64>) -> i64 {
    check_lock(lock);
    let before = place.read();
    place.write(before.wrapping_add(increment));
    before
}
