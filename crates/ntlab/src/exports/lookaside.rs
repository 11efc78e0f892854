//! Lookaside lists and the lists they are made of ("Using Lookaside Lists"). The headers inline allocating and freeing; the depth is
//! 0, as Driver Verifier's special pool has it: every block comes from pool and goes back there, so that a use after it was freed is found.

use super::Export;
use crate::{
    export, exports,
    finding::Finding,
    irql::{APC_LEVEL, DISPATCH_LEVEL, any_level, at_most},
    kernel::Kernel,
    memory::Ptr,
    sched::VERIFIER,
};

/// The functions of this module.
pub const FUNCTIONS: &[Export] = &[
    export!("ExInitializeNPagedLookasideList", at_most(DISPATCH_LEVEL), ex_initialize_npaged_lookaside_list),
    export!("ExDeleteNPagedLookasideList", at_most(DISPATCH_LEVEL), delete),
    export!("ExInitializePagedLookasideList", at_most(APC_LEVEL), ex_initialize_paged_lookaside_list),
    export!("ExDeletePagedLookasideList", at_most(APC_LEVEL), delete),
    export!("ExInitializeLookasideListEx", at_most(DISPATCH_LEVEL), ex_initialize_lookaside_list_ex),
    export!("ExDeleteLookasideListEx", at_most(DISPATCH_LEVEL), delete),
    export!("ExFlushLookasideListEx", at_most(DISPATCH_LEVEL), delete),
    export!("InitializeSListHead", any_level(), initialize_slist_head),
    export!("ExQueryDepthSList", at_most(DISPATCH_LEVEL), ex_query_depth_slist),
    export!("ExpInterlockedPopEntrySList", any_level(), pop),
    export!("ExpInterlockedPushEntrySList", any_level(), push),
    export!("ExpInterlockedFlushSList", any_level(), flush),
];

const NON_PAGED: u32 = 0;
const PAGED: u32 = 1;
const RAISE_ON_FAIL: u32 = 1;
/// Lists and their entries are aligned so.
const ALIGNMENT: u64 = 16;

/// `GENERAL_LOOKASIDE` on x64, up to what the kernel alone uses.
#[derive(Clone, Copy)]
#[repr(C)]
struct Lookaside {
    list: [u64; 2],
    depth: u16,
    maximum_depth: u16,
    counts: [u32; 4],
    pool_type: u32,
    tag: u32,
    size: u32,
    allocate: u64,
    free: u64,
    rest: [u64; 4],
}
const _: () = assert!(size_of::<Lookaside>() == 96);

/// A function for a list: the caller's, or that of pool.
fn routine(k: &Kernel, own: u64, pool: &str) -> u64 {
    let found = || exports::find(pool).map(|export| k.exec.thunk(export));
    if own == 0 { found().unwrap_or(0) } else { own }
}

fn initialize(k: &Kernel, list: Ptr<Lookaside>, routines: [u64; 2], pool_type: u32, size: u64, tag: u32) {
    aligned(list.address());
    let [allocate, free] = routines;
    list.write(Lookaside {
        list: [0; 2],
        depth: 0,
        maximum_depth: 0,
        counts: [0; 4],
        pool_type,
        tag,
        size: u32::try_from(size).unwrap_or(u32::MAX),
        allocate: routine(k, allocate, "ExAllocatePoolWithTag"),
        free: routine(k, free, "ExFreePool"),
        rest: [0; 4],
    });
}

/// "`ExInitializeNPagedLookasideList` function".
#[allow(clippy::too_many_arguments, reason = "the DDI has them")]
fn ex_initialize_npaged_lookaside_list(
    k: &Kernel,
    list: Ptr<Lookaside>,
    allocate: u64,
    free: u64,
    _flags: u32,
    size: u64,
    tag: u32,
    _depth: u16,
) {
    initialize(k, list, [allocate, free], NON_PAGED, size, tag);
}

/// "`ExInitializePagedLookasideList` function".
#[allow(clippy::too_many_arguments, reason = "the DDI has them")]
fn ex_initialize_paged_lookaside_list(
    k: &Kernel,
    list: Ptr<Lookaside>,
    allocate: u64,
    free: u64,
    _flags: u32,
    size: u64,
    tag: u32,
    _depth: u16,
) {
    initialize(k, list, [allocate, free], PAGED, size, tag);
}

/// "`ExInitializeLookasideListEx` function".
#[allow(clippy::too_many_arguments, reason = "the DDI has them")]
fn ex_initialize_lookaside_list_ex(
    k: &Kernel,
    list: Ptr<Lookaside>,
    allocate: u64,
    free: u64,
    pool_type: u32,
    flags: u32,
    size: u64,
    tag: u32,
    _depth: u16,
) -> i32 {
    if flags & RAISE_ON_FAIL != 0 {
        Finding::not_modelled("ExInitializeLookasideListEx with EX_LOOKASIDE_LIST_EX_FLAGS_RAISE_ON_FAIL").raise();
    }
    initialize(k, list, [allocate, free], pool_type, size, tag);
    0
}

/// "`ExDeleteLookasideListEx` function" and its relatives: there is nothing on the list to free.
const fn delete(_: &Kernel, _list: Ptr<Lookaside>) {}

fn aligned(address: u64) {
    if !address.is_multiple_of(ALIGNMENT) {
        let sentence = "a lookaside or sequenced list, or an entry of one, that is not aligned to 16 bytes";
        Finding::bug_check(VERIFIER, [0, address, 0, 0], sentence).raise();
    }
}

/// "`ExInitializeSListHead` function".
fn initialize_slist_head(_: &Kernel, head: Ptr<[u64; 2]>) {
    aligned(head.address());
    head.write([0, 0]);
}

/// Depth in the low 16 bits, sequence above.
const SEQUENCE: u64 = 1 << 16;

/// "`ExQueryDepthSList` function".
fn ex_query_depth_slist(_: &Kernel, head: Ptr<u16>) -> u16 {
    head.read()
}

/// "`ExInterlockedPushEntrySList` macro": the entry that was first before.
fn push(_: &Kernel, head: Ptr<[u64; 2]>, entry: Ptr<u64>) -> u64 {
    aligned(entry.address());
    let [state, first] = head.read();
    entry.write(first);
    head.write([state + SEQUENCE + 1, entry.address()]);
    first
}

/// "`ExInterlockedPopEntrySList` macro".
fn pop(_: &Kernel, head: Ptr<[u64; 2]>) -> u64 {
    let [state, first] = head.read();
    if first != 0 {
        head.write([state - 1, Ptr::<u64>::new(first).read()]);
    }
    first
}

/// "`ExInterlockedFlushSList` function".
fn flush(_: &Kernel, head: Ptr<[u64; 2]>) -> u64 {
    let [state, first] = head.read();
    head.write([state & !(SEQUENCE - 1), 0]);
    first
}
