//! Pool.

use wdk_sys::{
    NTSTATUS, PVOID, STATUS_INSUFFICIENT_RESOURCES, STATUS_SUCCESS,
    ntddk::{ExAllocatePool2, ExFreePoolWithTag},
};

use crate::{
    TAG,
    defect::{Defect, Hook},
    device::Device,
};

/// The rules of this topic.
pub const DEFECTS: &[Defect] = &[Defect::new("pool_freed_with_a_wrong_tag", &[Hook::Request(wrong_tag)])];

const POOL_FLAG_NON_PAGED: u64 = 0x40;

/// A block of nonpaged pool; null where there is none left.
fn allocate(bytes: u64) -> PVOID {
    // SAFETY: IRQL is PASSIVE_LEVEL at every caller.
    unsafe { ExAllocatePool2(POOL_FLAG_NON_PAGED, bytes, TAG) }
}

fn wrong_tag(_: &Device, correct: bool) -> NTSTATUS {
    let block = allocate(64);
    if block.is_null() {
        return STATUS_INSUFFICIENT_RESOURCES;
    }
    let tag = if correct { TAG } else { !TAG };
    // SAFETY: the block is not used again; that the tag is another one is the defect.
    unsafe { ExFreePoolWithTag(block, tag) }; // DEFECT pool_freed_with_a_wrong_tag
    STATUS_SUCCESS
}
