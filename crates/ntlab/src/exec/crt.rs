//! C runtime functions that the kernel exports and compilers call on their own. They are no kernel calls: they run on the driver's stack
//! with the driver's rights to memory, so that what they touch faults as if the driver had touched it. Their code is position independent
//! and is copied into the machine.

use std::{arch::global_asm, slice};

global_asm!(
    ".globl ntlab_runtime",
    ".hidden ntlab_runtime",
    ".globl ntlab_memmove",
    ".hidden ntlab_memmove",
    ".globl ntlab_memset",
    ".hidden ntlab_memset",
    ".globl ntlab_fill",
    ".hidden ntlab_fill",
    ".globl ntlab_zero",
    ".hidden ntlab_zero",
    ".globl ntlab_memcmp",
    ".hidden ntlab_memcmp",
    ".globl ntlab_compare",
    ".hidden ntlab_compare",
    ".globl ntlab_probe_stack",
    ".hidden ntlab_probe_stack",
    ".globl ntlab_runtime_end",
    ".hidden ntlab_runtime_end",
    ".balign 16",
    "ntlab_runtime:",
    // rax = rcx = destination, rdx = source, r8 = bytes. The ranges may overlap.
    "ntlab_memmove:",
    "mov rax, rcx",
    "mov r10, rdi",
    "mov r11, rsi",
    "mov rdi, rcx",
    "mov rsi, rdx",
    "mov r9, rcx",
    "sub r9, rdx",
    "mov rcx, r8",
    "cmp r9, r8",
    "jb 3f",
    "rep movsb",
    "2:",
    "mov rdi, r10",
    "mov rsi, r11",
    "ret",
    "3:",
    "lea rdi, [rdi+r8-1]",
    "lea rsi, [rsi+r8-1]",
    "std",
    "rep movsb",
    "cld",
    "jmp 2b",
    // rax = rcx = destination, edx = byte, r8 = bytes.
    "ntlab_memset:",
    "mov r9, rcx",
    "mov r10, rdi",
    "mov rdi, rcx",
    "mov eax, edx",
    "mov rcx, r8",
    "rep stosb",
    "mov rdi, r10",
    "mov rax, r9",
    "ret",
    // rcx = destination, rdx = bytes, r8d = byte.
    "ntlab_fill:",
    "mov r9, rdx",
    "mov edx, r8d",
    "mov r8, r9",
    "jmp ntlab_memset",
    // rcx = destination, rdx = bytes.
    "ntlab_zero:",
    "mov r8, rdx",
    "xor edx, edx",
    "jmp ntlab_memset",
    // rcx, rdx = what to compare, r8 = bytes. eax < 0, 0 or > 0.
    "ntlab_memcmp:",
    "mov r10, rdi",
    "mov r11, rsi",
    "mov rsi, rcx",
    "mov rdi, rdx",
    "mov rcx, r8",
    "xor eax, eax",
    "repe cmpsb",
    "je 4f",
    "sbb eax, eax",
    "or eax, 1",
    "4:",
    "mov rdi, r10",
    "mov rsi, r11",
    "ret",
    // The same arguments. rax = bytes that are equal from the start.
    "ntlab_compare:",
    "mov r10, rdi",
    "mov r11, rsi",
    "mov rsi, rcx",
    "mov rdi, rdx",
    "mov rcx, r8",
    "xor eax, eax",
    "repe cmpsb",
    "je 5f",
    "not rcx",
    "5:",
    "lea rax, [r8+rcx]",
    "mov rdi, r10",
    "mov rsi, r11",
    "ret",
    // Not win64: rax = size of the frame to come, no register may change. It touches every page, or a guard could be jumped over.
    "ntlab_probe_stack:",
    "push rcx",
    "push rax",
    "lea rcx, [rsp+24]",
    "cmp rax, 4096",
    "jb 7f",
    "6:",
    "sub rcx, 4096",
    "or byte ptr [rcx], 0",
    "sub rax, 4096",
    "cmp rax, 4096",
    "ja 6b",
    "7:",
    "sub rcx, rax",
    "or byte ptr [rcx], 0",
    "pop rax",
    "pop rcx",
    "ret",
    "ntlab_runtime_end:",
    "nop",
);

unsafe extern "C" {
    safe fn ntlab_runtime();
    safe fn ntlab_memmove();
    safe fn ntlab_memset();
    safe fn ntlab_fill();
    safe fn ntlab_zero();
    safe fn ntlab_memcmp();
    safe fn ntlab_compare();
    safe fn ntlab_probe_stack();
    safe fn ntlab_runtime_end();
}

/// Each function and its code; names from the pages "`RtlMoveMemory`", "`RtlFillMemory`", "`RtlZeroMemory`", "`RtlCompareMemory`" and the
/// C runtime.
const FUNCTIONS: [(&str, extern "C" fn()); 10] = [
    ("memcpy", ntlab_memmove),
    ("memmove", ntlab_memmove),
    ("RtlCopyMemory", ntlab_memmove),
    ("RtlMoveMemory", ntlab_memmove),
    ("memset", ntlab_memset),
    ("RtlFillMemory", ntlab_fill),
    ("RtlZeroMemory", ntlab_zero),
    ("memcmp", ntlab_memcmp),
    ("RtlCompareMemory", ntlab_compare),
    ("__chkstk", ntlab_probe_stack),
];

/// The code of all of them.
pub fn code() -> &'static [u8] {
    let start = ntlab_runtime as *const u8;
    // SAFETY: the code between the two symbols of the block above is mapped and never changes.
    unsafe { slice::from_raw_parts(start, ntlab_runtime_end as *const () as usize - start.addr()) }
}

/// Where the code of the function called `name` begins in [`code`].
pub fn offset(name: &str) -> Option<u64> {
    let (_, function) = FUNCTIONS.into_iter().find(|(known, _)| *known == name)?;
    Some((function as *const () as usize - ntlab_runtime as *const () as usize) as u64)
}

/// The name of the function that has the instruction at `offset` in [`code`].
pub fn name_at(offset: u64) -> Option<&'static str> {
    let starts = FUNCTIONS.into_iter().filter_map(|(name, _)| Some((self::offset(name)?, name)));
    let before = starts.filter(|(start, _)| *start <= offset);
    before
        .fold(None, |best: Option<(u64, &str)>, next| Some(best.filter(|best| best.0 >= next.0).unwrap_or(next)))
        .map(|(_, name)| name)
}

/// The name of the function that begins at `offset` in [`code`].
pub fn starting_at(offset: u64) -> Option<&'static str> {
    FUNCTIONS.into_iter().map(|(name, _)| name).find(|name| self::offset(name) == Some(offset))
}

/// How many bytes the function that has the instruction at `offset` in [`code`] has pushed there.
pub fn pushed(offset: u64) -> u64 {
    let start = ntlab_probe_stack as *const () as usize - ntlab_runtime as *const () as usize;
    match offset.checked_sub(start as u64) {
        Some(0) | None => 0,
        Some(1) => 8,
        Some(_) => 16,
    }
}
