//! Pageable code and data.

use core::sync::atomic::{AtomicU32, Ordering};

use wdk_sys::{
    _EVENT_TYPE, DRIVER_OBJECT, KEVENT, NTSTATUS, PVOID, STATUS_INSUFFICIENT_RESOURCES, STATUS_SUCCESS,
    ntddk::{ExAllocatePool2, ExFreePoolWithTag, KeInitializeEvent, KeSetEvent},
};

use crate::{
    TAG,
    defect::{Defect, Hook},
    device::Device,
    pool::raised,
};

/// The rules of this topic.
pub const DEFECTS: &[Defect] = &[
    Defect::new("paging_pool_touched_at_dispatch_level", &[Hook::Request(touch_pool)]),
    Defect::new("paging_section_of_code_run_at_dispatch_level", &[Hook::Request(run_code)]),
    Defect::new("paging_section_of_data_touched_at_dispatch_level", &[Hook::Request(touch_data)]),
    Defect::new("paging_event_in_paged_pool_set_at_dispatch_level", &[Hook::Request(set_event)]),
    Defect::new("paging_init_section_run_after_load", &[Hook::Load(load), Hook::Request(run_init)]),
];

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
