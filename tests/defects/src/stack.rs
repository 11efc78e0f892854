//! The kernel stack.

use core::hint;

use wdk_sys::{NTSTATUS, STATUS_SUCCESS};

use crate::{
    defect::{Defect, Hook},
    device::Device,
};

/// The rules of this topic.
pub const DEFECTS: &[Defect] = &[Defect::new("stack_recursion", &[Hook::Request(recursion)])];

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
