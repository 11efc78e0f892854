//! The kernel stack.

use core::hint;

use wdk_sys::{NTSTATUS, STATUS_SUCCESS};

use crate::{
    defect::{Defect, Hook},
    device::Device,
};

/// The rules of this topic.
pub const DEFECTS: &[Defect] = &[
    Defect::new("stack_recursion", &[Hook::Request(recursion)]),
    Defect::new("stack_frame_larger_than_the_stack", &[Hook::Request(large_frame)]),
];

fn recursion(_: &Device, correct: bool) -> NTSTATUS {
    descend(if correct { 10 } else { 1000 });
    STATUS_SUCCESS
}

/// Uses 256 bytes of stack and more at each level.
fn descend(levels: u32) -> u8 {
    let frame = hint::black_box([0_u8; 256]);
    if levels == 0 {
        return frame[0];
    }
    let below = descend(levels - 1); // DEFECT stack_recursion
    below.wrapping_add(hint::black_box(frame)[1])
}

fn large_frame(_: &Device, correct: bool) -> NTSTATUS {
    if correct {
        frame::<6000>();
    } else {
        frame::<32_000>();
    }
    STATUS_SUCCESS
}

/// Uses so many bytes of stack. A frame of more than a page is probed page by page before it is used (`__chkstk`), so that none of it lies
/// beyond the guard page.
#[rustfmt::skip]
#[inline(never)]
fn frame<const BYTES: usize>() { // DEFECT stack_frame_larger_than_the_stack
    hint::black_box([0_u8; BYTES]);
}
