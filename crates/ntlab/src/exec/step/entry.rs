//! The machine code that finds the translation of where an indirect branch goes.

use std::arch::naked_asm;

use crate::exec::entry::{EXIT, SAVED, TARGET, TARGETS, resume_entry};

/// What [`Border::exit`](crate::exec::entry::Border) says where no translation was found.
pub const NOT_FOUND: u64 = 1;
/// Entries of the table of branch targets, one for each value of the low 16 bits of an address.
pub const ENTRIES: u64 = 1 << 16;
/// Bytes of an entry: the address with its sign changed, so that a sum of 0 says that it is the one, and its translation.
pub const ENTRY: u64 = 16;

/// Entered by a jump from stepped code, with every register and flag the driver's and `Border::target` where the driver goes: goes on in
/// the translation, or comes back to the stepper. Only instructions that leave the flags alone.
///
/// # Safety
/// Only stepped code may get here.
#[unsafe(naked)]
pub unsafe extern "sysv64" fn lookup_entry() {
    naked_asm!(
        "mov gs:[{rax}], rax", "mov gs:[{rcx}], rcx", "mov gs:[{rdx}], rdx",
        "mov rcx, gs:[{target}]",
        "mov rdx, gs:[{targets}]",
        "movzx eax, cx",
        "lea rax, [rax+rax]",
        "lea rdx, [rdx+rax*8]",
        "mov rax, [rdx]",
        "lea rcx, [rcx+rax]",
        "jrcxz 2f",
        "mov rax, gs:[{rax}]", "mov rcx, gs:[{rcx}]", "mov rdx, gs:[{rdx}]",
        "mov qword ptr gs:[{exit}], {not_found}",
        "jmp {resume}",
        "2:",
        "mov rax, [rdx+8]", "mov gs:[{target}], rax",
        "mov rax, gs:[{rax}]", "mov rcx, gs:[{rcx}]", "mov rdx, gs:[{rdx}]",
        "jmp qword ptr gs:[{target}]",
        rax = const SAVED, rcx = const SAVED + 8, rdx = const SAVED + 16,
        target = const TARGET, targets = const TARGETS, exit = const EXIT, not_found = const NOT_FOUND,
        resume = sym resume_entry,
    )
}
