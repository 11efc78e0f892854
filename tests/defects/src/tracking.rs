//! What must not be left behind.

use core::sync::atomic::Ordering;

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
pub const DEFECTS: &[Defect] =
    &[Defect::new("tracking_pool_left_at_unload", &[Hook::Start(keep_a_block), Hook::Remove(free_the_block)])];

const POOL_FLAG_NON_PAGED: u64 = 0x40;

fn keep_a_block(device: &Device, _: bool) -> NTSTATUS {
    // SAFETY: IRQL is PASSIVE_LEVEL.
    let block = unsafe { ExAllocatePool2(POOL_FLAG_NON_PAGED, 128, TAG) }; // DEFECT tracking_pool_left_at_unload
    device.kept[0].store(block as u64, Ordering::Relaxed);
    if block.is_null() { STATUS_INSUFFICIENT_RESOURCES } else { STATUS_SUCCESS }
}

fn free_the_block(device: &Device, correct: bool) -> NTSTATUS {
    let block = device.kept[0].swap(0, Ordering::Relaxed);
    if correct {
        // SAFETY: allocated by `keep_a_block` and not used any more.
        unsafe { ExFreePoolWithTag(block as PVOID, TAG) };
    }
    STATUS_SUCCESS
}
