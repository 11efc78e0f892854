//! Pool.

use wdk_sys::{
    _WORK_QUEUE_TYPE, DISPATCH_LEVEL, KDPC, KIRQL, KTIMER, LARGE_INTEGER, NTSTATUS, PDEVICE_OBJECT, PVOID,
    STATUS_INSUFFICIENT_RESOURCES, STATUS_SUCCESS, ULONG,
    ntddk::{
        ExAllocatePool2, ExFreePoolWithTag, IoInitializeWorkItem, IoQueueWorkItem, IoSizeofWorkItem, KeCancelTimer,
        KeFlushQueuedDpcs, KeInitializeDpc, KeInitializeTimer, KeInsertQueueDpc, KeQuerySystemTimePrecise, KeSetTimer,
    },
};

use crate::{
    TAG,
    defect::{Defect, Hook},
    device::Device,
};

/// The rules of this topic.
pub const DEFECTS: &[Defect] = &[
    Defect::new("pool_freed_with_a_wrong_tag", &[Hook::Request(wrong_tag)]),
    Defect::new("pool_written_beyond_the_end", &[Hook::Request(write_beyond)]),
    Defect::new("pool_written_far_beyond_the_end", &[Hook::Request(write_far_beyond)]),
    Defect::new("pool_end_given_to_the_kernel", &[Hook::Request(give_end)]),
    Defect::new("pool_written_behind_an_odd_end", &[Hook::Request(write_behind)]),
    Defect::new("pool_written_before_the_start", &[Hook::Request(write_before)]),
    Defect::new("pool_underrun", &[Hook::Request(underrun)]),
    Defect::new("pool_read_before_the_start", &[Hook::Request(read_small_before)]),
    Defect::new("pool_page_read_before_the_start", &[Hook::Request(read_before)]),
    Defect::new("pool_read_after_it_was_freed", &[Hook::Request(read_freed)]),
    Defect::new("pool_written_after_it_was_freed", &[Hook::Request(write_freed)]),
    Defect::new("pool_freed_and_given_to_the_kernel", &[Hook::Request(give_freed)]),
    Defect::new("pool_freed_twice", &[Hook::Request(free_twice)]),
    Defect::new("pool_freed_in_the_middle", &[Hook::Request(free_middle)]),
    Defect::new("pool_freed_that_is_none", &[Hook::Request(free_stack)]),
    Defect::new("pool_of_no_bytes", &[Hook::Request(allocate_nothing)]),
    Defect::new("pool_paged_allocated_at_dispatch_level", &[Hook::Request(allocate_paged_raised)]),
    Defect::new("pool_paged_freed_at_dispatch_level", &[Hook::Request(free_paged_raised)]),
    Defect::new("pool_freed_with_a_timer_that_is_set", &[Hook::Request(free_timer)]),
    Defect::new("pool_freed_with_a_dpc_that_is_queued", &[Hook::Request(free_dpc)]),
    Defect::new("pool_freed_with_a_lock_that_is_held", &[Hook::Request(free_lock)]),
    Defect::new("pool_freed_with_a_work_item_that_is_queued", &[Hook::Request(free_work_item)]),
];

const POOL_FLAG_NON_PAGED: u64 = 0x40;
const POOL_FLAG_PAGED: u64 = 0x100;
const DISPATCH: KIRQL = DISPATCH_LEVEL as KIRQL;
const PAGE: u64 = 4096;

unsafe extern "C" {
    // Functions behind macros of the headers.
    fn KfRaiseIrql(to: KIRQL) -> KIRQL;
    fn KeLowerIrql(to: KIRQL);
    fn KeAcquireSpinLockRaiseToDpc(lock: *mut usize) -> KIRQL;
    fn KeReleaseSpinLock(lock: *mut usize, before: KIRQL);
}

/// Does `act` at `DISPATCH_LEVEL`.
pub fn raised<T>(act: impl FnOnce() -> T) -> T {
    // SAFETY: every caller is below.
    let before = unsafe { KfRaiseIrql(DISPATCH) };
    let result = act();
    // SAFETY: that is where it was.
    unsafe { KeLowerIrql(before) };
    result
}

/// A block of nonpaged pool; null where there is none left.
fn allocate(bytes: u64) -> PVOID {
    // SAFETY: IRQL is PASSIVE_LEVEL at every caller.
    unsafe { ExAllocatePool2(POOL_FLAG_NON_PAGED, bytes, TAG) }
}

/// Frees a block.
fn free(block: PVOID) {
    // SAFETY: that the block may be freed is what the defects get wrong.
    unsafe { ExFreePoolWithTag(block, TAG) };
}

/// Does `act` with a fresh block, and frees it.
fn with_block(bytes: u64, act: impl FnOnce(PVOID)) -> NTSTATUS {
    let block = allocate(bytes);
    if block.is_null() {
        return STATUS_INSUFFICIENT_RESOURCES;
    }
    act(block);
    free(block);
    STATUS_SUCCESS
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

fn write_beyond(_: &Device, correct: bool) -> NTSTATUS {
    with_block(64, |block| {
        let place = block.cast::<u8>().wrapping_add(if correct { 63 } else { 64 });
        // SAFETY: that it lies in the block is what the defect gets wrong.
        unsafe { place.write_volatile(1) }; // DEFECT pool_written_beyond_the_end
    })
}

/// A copy that is too long.
fn write_far_beyond(_: &Device, correct: bool) -> NTSTATUS {
    with_block(64, |block| {
        let bytes = if correct { 64 } else { 1000 };
        // SAFETY: that as many are in the block is what the defect gets wrong.
        unsafe { block.cast::<u8>().write_bytes(1, bytes) }; // DEFECT pool_written_far_beyond_the_end
    })
}

/// Has the kernel write the time to an address.
#[expect(clippy::inline_always, reason = "the line with the mark is the caller's")]
#[inline(always)]
fn ask_the_time(place: PVOID) {
    // SAFETY: that it is the driver's memory is what the defects get wrong.
    unsafe { KeQuerySystemTimePrecise(place.cast()) };
}

fn give_end(_: &Device, correct: bool) -> NTSTATUS {
    with_block(64, |block| {
        ask_the_time(block.wrapping_byte_add(if correct { 56 } else { 64 })); // DEFECT pool_end_given_to_the_kernel
    })
}

/// The block ends short of the page: what is written there is found when the block is freed.
fn write_behind(_: &Device, correct: bool) -> NTSTATUS {
    let block = allocate(60);
    if block.is_null() {
        return STATUS_INSUFFICIENT_RESOURCES;
    }
    let place = block.cast::<u8>().wrapping_add(if correct { 59 } else { 60 });
    // SAFETY: that it lies in the block is what the defect gets wrong.
    unsafe { place.write_volatile(1) };
    // SAFETY: the block is not used again.
    unsafe { ExFreePoolWithTag(block, TAG) }; // DEFECT pool_written_behind_an_odd_end
    STATUS_SUCCESS
}

/// As for what is written before it.
fn write_before(_: &Device, correct: bool) -> NTSTATUS {
    let block = allocate(64);
    if block.is_null() {
        return STATUS_INSUFFICIENT_RESOURCES;
    }
    let first = block.cast::<u8>();
    let place = if correct { first } else { first.wrapping_sub(1) };
    // SAFETY: that it lies in the block is what the defect gets wrong.
    unsafe { place.write_volatile(1) };
    // SAFETY: the block is not used again.
    unsafe { ExFreePoolWithTag(block, TAG) }; // DEFECT pool_written_before_the_start
    STATUS_SUCCESS
}

/// One byte before the block, at once where the block lies at the start of its page.
fn underrun(_: &Device, correct: bool) -> NTSTATUS {
    with_block(64, |block| {
        let place = if correct { block } else { block.wrapping_byte_sub(1) };
        // SAFETY: that it lies in the block is what the defect gets wrong.
        unsafe { place.cast::<u8>().write_volatile(1) }; // DEFECT pool_underrun
    })
}

fn read_small_before(_: &Device, correct: bool) -> NTSTATUS {
    with_block(64, |block| {
        let place = if correct { block } else { block.wrapping_byte_sub(4) };
        // SAFETY: that it lies in the block is what the defect gets wrong.
        let _ = unsafe { place.cast::<u32>().read_volatile() }; // DEFECT pool_read_before_the_start
    })
}

fn read_before(_: &Device, correct: bool) -> NTSTATUS {
    with_block(2 * PAGE, |block| {
        let place = if correct { block } else { block.wrapping_byte_sub(1) };
        // SAFETY: that it lies in the block is what the defect gets wrong.
        let _ = unsafe { place.cast::<u8>().read_volatile() }; // DEFECT pool_page_read_before_the_start
    })
}

fn read_freed(_: &Device, correct: bool) -> NTSTATUS {
    let block = allocate(64);
    if block.is_null() {
        return STATUS_INSUFFICIENT_RESOURCES;
    }
    if correct {
        return with_block(64, |other| {
            // SAFETY: the block is there.
            let _ = unsafe { other.cast::<u8>().read_volatile() };
            free(block);
        });
    }
    free(block);
    // SAFETY: that the block is there is what the defect gets wrong.
    let _ = unsafe { block.cast::<u8>().read_volatile() }; // DEFECT pool_read_after_it_was_freed
    STATUS_SUCCESS
}

/// Does `act` with a block that is freed before, or after where that is correct.
fn with_freed(correct: bool, act: impl FnOnce(PVOID)) -> NTSTATUS {
    let block = allocate(64);
    if block.is_null() {
        return STATUS_INSUFFICIENT_RESOURCES;
    }
    if !correct {
        free(block);
    }
    act(block);
    if correct {
        free(block);
    }
    STATUS_SUCCESS
}

fn write_freed(_: &Device, correct: bool) -> NTSTATUS {
    with_freed(correct, |block| {
        // SAFETY: that the block is there is what the defect gets wrong.
        unsafe { block.cast::<u8>().write_volatile(1) }; // DEFECT pool_written_after_it_was_freed
    })
}

fn give_freed(_: &Device, correct: bool) -> NTSTATUS {
    with_freed(correct, |block| {
        ask_the_time(block); // DEFECT pool_freed_and_given_to_the_kernel
    })
}

fn free_twice(_: &Device, correct: bool) -> NTSTATUS {
    let block = allocate(64);
    if block.is_null() {
        return STATUS_INSUFFICIENT_RESOURCES;
    }
    if !correct {
        free(block);
    }
    free(block); // DEFECT pool_freed_twice
    STATUS_SUCCESS
}

fn free_middle(_: &Device, correct: bool) -> NTSTATUS {
    let block = allocate(64);
    if block.is_null() {
        return STATUS_INSUFFICIENT_RESOURCES;
    }
    free(if correct { block } else { block.wrapping_byte_add(16) }); // DEFECT pool_freed_in_the_middle
    STATUS_SUCCESS
}

fn free_stack(_: &Device, correct: bool) -> NTSTATUS {
    let mut local = 0_u64;
    if !correct {
        free((&raw mut local).cast()); // DEFECT pool_freed_that_is_none
    }
    STATUS_SUCCESS
}

fn allocate_nothing(_: &Device, correct: bool) -> NTSTATUS {
    let block = allocate(u64::from(correct)); // DEFECT pool_of_no_bytes
    if block.is_null() {
        return STATUS_INSUFFICIENT_RESOURCES;
    }
    free(block);
    STATUS_SUCCESS
}

fn allocate_paged_raised(_: &Device, correct: bool) -> NTSTATUS {
    let pool = if correct { POOL_FLAG_NON_PAGED } else { POOL_FLAG_PAGED };
    // SAFETY: that the level allows it is what the defect gets wrong.
    let block = raised(|| unsafe { ExAllocatePool2(pool, 64, TAG) }); // DEFECT pool_paged_allocated_at_dispatch_level
    if block.is_null() {
        return STATUS_INSUFFICIENT_RESOURCES;
    }
    free(block);
    STATUS_SUCCESS
}

fn free_paged_raised(_: &Device, correct: bool) -> NTSTATUS {
    // SAFETY: IRQL is PASSIVE_LEVEL.
    let block = unsafe { ExAllocatePool2(POOL_FLAG_PAGED, 64, TAG) };
    if block.is_null() {
        return STATUS_INSUFFICIENT_RESOURCES;
    }
    if correct {
        free(block);
    } else {
        raised(|| free(block)); // DEFECT pool_paged_freed_at_dispatch_level
    }
    STATUS_SUCCESS
}

fn free_timer(_: &Device, correct: bool) -> NTSTATUS {
    let block = allocate(size_of::<KTIMER>() as u64);
    if block.is_null() {
        return STATUS_INSUFFICIENT_RESOURCES;
    }
    let timer = block.cast::<KTIMER>();
    // SAFETY: the block has room for a timer.
    unsafe { KeInitializeTimer(timer) };
    let due = LARGE_INTEGER { QuadPart: -10_000_000 };
    // SAFETY: the timer was initialized; it has no DPC.
    unsafe { KeSetTimer(timer, due, core::ptr::null_mut()) };
    if correct {
        // SAFETY: as above.
        unsafe { KeCancelTimer(timer) };
    }
    free(block); // DEFECT pool_freed_with_a_timer_that_is_set
    STATUS_SUCCESS
}

const unsafe extern "C" fn nothing(_: *mut KDPC, _: PVOID, _: PVOID, _: PVOID) {}

fn free_dpc(_: &Device, correct: bool) -> NTSTATUS {
    let block = allocate(size_of::<KDPC>() as u64);
    if block.is_null() {
        return STATUS_INSUFFICIENT_RESOURCES;
    }
    let dpc = block.cast::<KDPC>();
    // SAFETY: the block has room for a DPC.
    unsafe { KeInitializeDpc(dpc, Some(nothing), core::ptr::null_mut()) };
    raised(|| {
        // SAFETY: the DPC was initialized.
        unsafe { KeInsertQueueDpc(dpc, core::ptr::null_mut(), core::ptr::null_mut()) };
        if !correct {
            free(block); // DEFECT pool_freed_with_a_dpc_that_is_queued
        }
    });
    if correct {
        // SAFETY: IRQL is PASSIVE_LEVEL.
        unsafe { KeFlushQueuedDpcs() };
        free(block);
    }
    STATUS_SUCCESS
}

fn free_lock(_: &Device, correct: bool) -> NTSTATUS {
    let block = allocate(size_of::<usize>() as u64);
    if block.is_null() {
        return STATUS_INSUFFICIENT_RESOURCES;
    }
    let lock = block.cast::<usize>();
    // SAFETY: a zeroed word is a lock that is free.
    let before = unsafe { KeAcquireSpinLockRaiseToDpc(lock) };
    if !correct {
        free(block); // DEFECT pool_freed_with_a_lock_that_is_held
    }
    // SAFETY: acquired above.
    unsafe { KeReleaseSpinLock(lock, before) };
    free(block);
    STATUS_SUCCESS
}

/// Frees its work item's memory, as it may from here on.
unsafe extern "C" fn work(_: PDEVICE_OBJECT, context: PVOID) {
    if !context.is_null() {
        free(context);
    }
}

fn free_work_item(device: &Device, correct: bool) -> NTSTATUS {
    // SAFETY: it has no requirements.
    let bytes: ULONG = unsafe { IoSizeofWorkItem() };
    let block = allocate(bytes.into());
    if block.is_null() {
        return STATUS_INSUFFICIENT_RESOURCES;
    }
    // SAFETY: the block has room for a work item.
    unsafe { IoInitializeWorkItem(device.object.cast(), block.cast()) };
    let context = if correct { block } else { core::ptr::null_mut() };
    raised(|| {
        let queue = _WORK_QUEUE_TYPE::DelayedWorkQueue;
        // SAFETY: the work item was initialized.
        unsafe { IoQueueWorkItem(block.cast(), Some(work), queue, context) };
        if !correct {
            free(block); // DEFECT pool_freed_with_a_work_item_that_is_queued
        }
    });
    STATUS_SUCCESS
}
