//! Pageable code and data.

use core::sync::atomic::{AtomicU32, Ordering};

use wdk_sys::{
    _EVENT_TYPE, DRIVER_OBJECT, KDPC, KEVENT, NTSTATUS, PVOID, STATUS_INSUFFICIENT_RESOURCES, STATUS_SUCCESS,
    ntddk::{
        ExAllocatePool2, ExFreePoolWithTag, KeFlushQueuedDpcs, KeInitializeDpc, KeInitializeEvent, KeInsertQueueDpc,
        KeSetEvent,
    },
};

use crate::{
    TAG,
    defect::{Defect, Hook},
    device::Device,
    hardware::{self, RAISE},
    pool::raised,
};

/// The rules of this topic.
pub const DEFECTS: &[Defect] = &[
    Defect::new("paging_pool_touched_at_dispatch_level", &[Hook::Request(touch_pool)]),
    Defect::new("paging_section_of_code_run_at_dispatch_level", &[Hook::Request(run_code)]),
    Defect::new("paging_section_of_data_touched_at_dispatch_level", &[Hook::Request(touch_data)]),
    Defect::new("paging_event_in_paged_pool_set_at_dispatch_level", &[Hook::Request(set_event)]),
    Defect::new(
        "paging_pool_touched_by_a_dpc",
        &[Hook::Start(keep_block), Hook::Request(raise_interrupt), Hook::Dpc(touch_kept), Hook::Remove(free_kept)],
    ),
    Defect::new(
        "paging_pool_touched_by_an_isr",
        &[Hook::Start(keep_block), Hook::Request(raise_interrupt), Hook::Isr(isr_touches), Hook::Remove(free_kept)],
    ),
    Defect::new("paging_pool_touched_at_a_late_raise", &[Hook::Request(touch_late)]),
    Defect::new("paging_dpc_in_a_pageable_section", &[Hook::Request(queue_dpc)]),
    Defect::new("paging_init_section_read_after_load", &[Hook::Load(load), Hook::Request(read_init)]),
    Defect::new("paging_init_section_run_after_load", &[Hook::Load(load), Hook::Request(run_init)]),
];

const POOL_FLAG_NON_PAGED: u64 = 0x40;
const POOL_FLAG_PAGED: u64 = 0x100;

#[unsafe(link_section = "PAGEDATA")]
static PAGEABLE: AtomicU32 = AtomicU32::new(1);

static RUNS: AtomicU32 = AtomicU32::new(0);

#[unsafe(link_section = "PAGE")]
#[inline(never)]
fn pageable() -> u32 {
    RUNS.fetch_add(1, Ordering::Relaxed)
}

#[unsafe(link_section = "INIT")]
#[inline(never)]
fn only_at_load() -> u32 {
    RUNS.fetch_add(1, Ordering::Relaxed)
}

/// Does `act` with a zeroed block of paged pool.
fn with_paged(act: impl FnOnce(PVOID)) -> NTSTATUS {
    // SAFETY: IRQL is PASSIVE_LEVEL.
    let block = unsafe { ExAllocatePool2(POOL_FLAG_PAGED, 64, TAG) };
    if block.is_null() {
        return STATUS_INSUFFICIENT_RESOURCES;
    }
    act(block);
    // SAFETY: the block is not used again.
    unsafe { ExFreePoolWithTag(block, TAG) };
    STATUS_SUCCESS
}

fn touch_pool(_: &Device, correct: bool) -> NTSTATUS {
    with_paged(|block| {
        let touch = || {
            // SAFETY: that the level allows it is what the defect gets wrong.
            unsafe { block.cast::<u8>().write_volatile(1) }; // DEFECT paging_pool_touched_at_dispatch_level
        };
        if correct { touch() } else { raised(touch) }
    })
}

fn run_code(_: &Device, correct: bool) -> NTSTATUS {
    if correct {
        pageable();
    } else {
        raised(pageable); // DEFECT paging_section_of_code_run_at_dispatch_level
    }
    STATUS_SUCCESS
}

fn touch_data(_: &Device, correct: bool) -> NTSTATUS {
    let touch = || PAGEABLE.fetch_add(1, Ordering::Relaxed); // DEFECT paging_section_of_data_touched_at_dispatch_level
    if correct {
        touch()
    } else {
        raised(touch)
    };
    STATUS_SUCCESS
}

fn set_event(_: &Device, correct: bool) -> NTSTATUS {
    with_paged(|block| {
        let event = block.cast::<KEVENT>();
        // SAFETY: the block has room for an event.
        unsafe { KeInitializeEvent(event, _EVENT_TYPE::NotificationEvent, 0) };
        let set = || {
            // SAFETY: the event was initialized; that it is not paged out is what the defect gets wrong.
            unsafe { KeSetEvent(event, 0, 0) }; // DEFECT paging_event_in_paged_pool_set_at_dispatch_level
        };
        if correct { set() } else { raised(set) }
    })
}

/// Here the section is still there.
fn load(_: &mut DRIVER_OBJECT, correct: bool) -> NTSTATUS {
    if correct {
        only_at_load();
    }
    STATUS_SUCCESS
}

fn run_init(_: &Device, correct: bool) -> NTSTATUS {
    if !correct {
        only_at_load(); // DEFECT paging_init_section_run_after_load
    }
    STATUS_SUCCESS
}

/// Keeps a block of pool until [`free_kept`]: paged pool, where that is the defect.
fn keep_block(device: &Device, correct: bool) -> NTSTATUS {
    let pool = if correct { POOL_FLAG_NON_PAGED } else { POOL_FLAG_PAGED };
    // SAFETY: IRQL is PASSIVE_LEVEL.
    let block = unsafe { ExAllocatePool2(pool, 64, TAG) };
    device.kept[0].store(block as u64, Ordering::Relaxed);
    if block.is_null() { STATUS_INSUFFICIENT_RESOURCES } else { STATUS_SUCCESS }
}

fn kept(device: &Device) -> *mut u8 {
    device.kept[0].load(Ordering::Relaxed) as *mut u8
}

fn free_kept(device: &Device, _: bool) -> NTSTATUS {
    // SAFETY: `keep_block` allocated it, and interrupts are over.
    unsafe { ExFreePoolWithTag(kept(device).cast(), TAG) };
    STATUS_SUCCESS
}

/// Has the device interrupt.
fn raise_interrupt(device: &Device, _: bool) -> NTSTATUS {
    device.hardware.write(RAISE, 1);
    STATUS_SUCCESS
}

fn touch_kept(device: &Device, _: bool) -> NTSTATUS {
    // SAFETY: the block is there; that it is not paged out is what the defect gets wrong.
    unsafe { kept(device).write_volatile(1) }; // DEFECT paging_pool_touched_by_a_dpc
    STATUS_SUCCESS
}

fn isr_touches(device: &Device, _: bool) -> bool {
    // SAFETY: the block is there; that it is not paged out is what the defect gets wrong.
    unsafe { kept(device).write_volatile(2) }; // DEFECT paging_pool_touched_by_an_isr
    hardware::acknowledge(device)
}

/// After many raises at which nothing was wrong.
fn touch_late(_: &Device, correct: bool) -> NTSTATUS {
    with_paged(|block| {
        let touch = || {
            // SAFETY: that the level allows it is what the defect gets wrong.
            unsafe { block.cast::<u8>().write_volatile(3) }; // DEFECT paging_pool_touched_at_a_late_raise
        };
        let maybe_touch = |wrong| {
            if wrong {
                touch();
            }
        };
        for turn in 1..=1000 {
            touch();
            raised(|| maybe_touch(turn == 1000 && !correct));
        }
    })
}

#[rustfmt::skip]
#[unsafe(link_section = "PAGE")]
unsafe extern "C" fn pageable_dpc(_: *mut KDPC, _: PVOID, _: PVOID, _: PVOID) { // DEFECT paging_dpc_in_a_pageable_section
    RUNS.fetch_add(2, Ordering::Relaxed);
}

unsafe extern "C" fn resident_dpc(_: *mut KDPC, _: PVOID, _: PVOID, _: PVOID) {
    RUNS.fetch_add(3, Ordering::Relaxed);
}

fn queue_dpc(device: &Device, correct: bool) -> NTSTATUS {
    let dpc = device.hardware.dpc();
    let routine = if correct { resident_dpc } else { pageable_dpc };
    // SAFETY: the device has no interrupt, so that its DPC is free.
    unsafe { KeInitializeDpc(dpc, Some(routine), core::ptr::null_mut()) };
    // SAFETY: initialized above.
    unsafe { KeInsertQueueDpc(dpc, core::ptr::null_mut(), core::ptr::null_mut()) };
    // SAFETY: IRQL is PASSIVE_LEVEL.
    unsafe { KeFlushQueuedDpcs() };
    STATUS_SUCCESS
}

fn read_init(_: &Device, correct: bool) -> NTSTATUS {
    let code = if correct { queue_dpc as *const u8 } else { only_at_load as *const u8 };
    // SAFETY: that the code is there is what the defect gets wrong.
    let _ = unsafe { code.read_volatile() }; // DEFECT paging_init_section_read_after_load
    STATUS_SUCCESS
}
