//! Pool.

use windows_sys::Wdk::System::SystemServices::{
    MM_ANY_NODE_OK, POOL_EXTENDED_PARAMETER, PoolExtendedParameterNumaNode, PoolExtendedParameterPriority,
};

use super::Export;
use crate::{
    at, export,
    finding::Finding,
    irql::{DISPATCH_LEVEL, at_most},
    kernel::Kernel,
    memory::{Owner, PoolKind, Ptr, Request, Tag},
};

/// The functions of this module.
pub const FUNCTIONS: &[Export] = &[
    export!("ExAllocatePool2", at_most(DISPATCH_LEVEL), ex_allocate_pool2),
    export!("ExAllocatePool3", at_most(DISPATCH_LEVEL), ex_allocate_pool3),
    export!("ExAllocatePoolWithTag", at_most(DISPATCH_LEVEL), ex_allocate_pool_with_tag),
    export!("ExFreePool", at_most(DISPATCH_LEVEL), ex_free_pool),
    export!("ExFreePoolWithTag", at_most(DISPATCH_LEVEL), ex_free_pool_with_tag),
];

/// The values of the page "`POOL_FLAGS`", which windows-sys does not have.
mod flags {
    pub const UNINITIALIZED: u64 = 0x2;
    pub const SESSION: u64 = 0x4;
    pub const CACHE_ALIGNED: u64 = 0x8;
    pub const RAISE_ON_FAILURE: u64 = 0x20;
    pub const NON_PAGED: u64 = 0x40;
    pub const NON_PAGED_EXECUTE: u64 = 0x80;
    pub const PAGED: u64 = 0x100;
    /// Where the flags begin that are ignored when they are unknown.
    pub const OPTIONAL_START: u64 = 1 << 32;
    /// Every flag of the required half that drivers may use; the lowest charges quota.
    pub const REQUIRED: u64 =
        0x1 | UNINITIALIZED | SESSION | CACHE_ALIGNED | RAISE_ON_FAILURE | NON_PAGED | NON_PAGED_EXECUTE | PAGED;
}

const CACHE_LINE: u64 = 64;
/// `DRIVER_VERIFIER_DETECTED_VIOLATION` and its parameters.
const VERIFIER: u32 = 0xC4;
const ZERO_BYTES: u64 = 0x00;
const PAGED_ALLOCATED_AT_WRONG_LEVEL: u64 = 0x01;
const NOT_ALLOCATED: u64 = 0x10;
const PAGED_FREED_AT_WRONG_LEVEL: u64 = 0x11;
/// `PagedPool` of `POOL_TYPE`, as a parameter.
const PAGED: u64 = 1;
/// The bit of `POOL_EXTENDED_PARAMETER` that says that it may be ignored, above its type.
const PARAMETER_OPTIONAL: u64 = 1 << 8;
const PARAMETER_TYPE: u64 = 0xFF;
const PRIORITY: u64 = PoolExtendedParameterPriority.unsigned_abs() as u64;
const NUMA_NODE: u64 = PoolExtendedParameterNumaNode.unsigned_abs() as u64;

/// `POOL_TYPE` of `ExAllocatePoolWithTag`.
const NON_PAGED_POOL: i32 = 0;
const PAGED_POOL: i32 = 1;
const NON_PAGED_POOL_NX: i32 = 512;

/// "`ExAllocatePool2` function".
fn ex_allocate_pool2(k: &Kernel, flags: u64, bytes: u64, tag: u32) -> Ptr<u8> {
    allocate_with_flags(k, flags, bytes, tag, None)
}

/// "`ExAllocatePool3` function", "`POOL_EXTENDED_PARAMETER` structure".
fn ex_allocate_pool3(
    k: &Kernel,
    flags: u64,
    bytes: u64,
    tag: u32,
    parameters: Ptr<POOL_EXTENDED_PARAMETER>,
    count: u32,
) -> Ptr<u8> {
    let mut node = None;
    for index in 0..count as usize {
        let parameter = parameters.offset(index);
        let bits = at!(parameter, Anonymous1._bitfield).read();
        match bits & PARAMETER_TYPE {
            PRIORITY => {}
            NUMA_NODE if flags & flags::NON_PAGED != 0 => {
                node = Some(at!(parameter, Anonymous2.PreferredNode).read());
            }
            _ if bits & PARAMETER_OPTIONAL != 0 => {}
            _ => return Ptr::null(),
        }
    }
    let highest = u32::from(k.sched.topology.highest_node());
    match node.map(|node| (node & !MM_ANY_NODE_OK, node & MM_ANY_NODE_OK != 0)) {
        Some((node, false)) if node > highest => Ptr::null(),
        wish => allocate_with_flags(k, flags, bytes, tag, wish.map(|(node, _)| node)),
    }
}

fn allocate_with_flags(k: &Kernel, flags: u64, bytes: u64, tag: u32, node: Option<u32>) -> Ptr<u8> {
    let required = flags % flags::OPTIONAL_START;
    if required & flags::SESSION != 0 {
        Finding::not_modelled("POOL_FLAG_SESSION").raise();
    }
    let kind = match required & (flags::NON_PAGED | flags::NON_PAGED_EXECUTE | flags::PAGED) {
        flags::NON_PAGED => PoolKind::NonPaged,
        flags::NON_PAGED_EXECUTE => PoolKind::NonPagedExecute,
        flags::PAGED => PoolKind::Paged,
        _ => return Ptr::null(),
    };
    if required & !flags::REQUIRED != 0 || tag == 0 {
        return Ptr::null();
    }
    let block = allocate(
        k,
        Request {
            kind,
            bytes,
            tag: Tag(tag),
            zeroed: required & flags::UNINITIALIZED == 0,
            alignment: if required & flags::CACHE_ALIGNED == 0 { 0 } else { CACHE_LINE },
            node,
            owner: Owner::Driver,
        },
    );
    if block.is_null() && required & flags::RAISE_ON_FAILURE != 0 {
        Finding::not_modelled("the exception of POOL_FLAG_RAISE_ON_FAILURE").raise();
    }
    block
}

/// "`ExAllocatePoolWithTag` function": what it allocates is not zeroed.
fn ex_allocate_pool_with_tag(k: &Kernel, pool: i32, bytes: u64, tag: u32) -> Ptr<u8> {
    let kind = match pool {
        NON_PAGED_POOL => PoolKind::NonPagedExecute,
        NON_PAGED_POOL_NX => PoolKind::NonPaged,
        PAGED_POOL => PoolKind::Paged,
        other => Finding::not_modelled(format!("ExAllocatePoolWithTag: pool type {other}")).raise(),
    };
    allocate(k, Request { kind, bytes, tag: Tag(tag), zeroed: false, alignment: 0, node: None, owner: Owner::Driver })
}

fn allocate(k: &Kernel, request: Request) -> Ptr<u8> {
    let level = k.irql();
    let pool = u64::from(request.kind == PoolKind::Paged);
    if request.bytes == 0 {
        let parameters = [ZERO_BYTES, level.0.into(), pool, 0];
        Finding::bug_check(VERIFIER, parameters, "allocation of 0 bytes of pool").raise();
    }
    if request.kind == PoolKind::Paged && level >= DISPATCH_LEVEL {
        let parameters = [PAGED_ALLOCATED_AT_WRONG_LEVEL, level.0.into(), pool, request.bytes];
        Finding::bug_check(VERIFIER, parameters, format!("allocation of paged pool at {level}")).raise();
    }
    k.memory.allocate(k, request).unwrap_or_default()
}

/// "`ExFreePool` function".
fn ex_free_pool(k: &Kernel, block: Ptr<u8>) {
    free(k, block, None);
}

/// "`ExFreePoolWithTag` function".
fn ex_free_pool_with_tag(k: &Kernel, block: Ptr<u8>, tag: u32) {
    free(k, block, (tag != 0).then_some(tag));
}

fn free(k: &Kernel, block: Ptr<u8>, tag: Option<u32>) {
    if let Some(known) = k.memory.pool.block(block.address()) {
        let level = k.irql();
        if known.request.kind == PoolKind::Paged && level >= DISPATCH_LEVEL {
            let parameters = [PAGED_FREED_AT_WRONG_LEVEL, level.0.into(), PAGED, block.address()];
            let finding = Finding::bug_check(VERIFIER, parameters, format!("free of paged pool at {level}"));
            known.allocated(finding).raise();
        }
        if known.request.owner == Owner::Kernel {
            let sentence = format!("free of a pool block of the kernel's, tag '{}'", known.request.tag);
            Finding::bug_check(VERIFIER, [NOT_ALLOCATED, block.address(), 0, 0], sentence).raise();
        }
    }
    k.memory.free_pool(k, block, tag);
}
