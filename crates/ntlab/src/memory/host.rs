//! The few calls to the host's kernel that make, protect and release address space.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::FileExt,
    ptr,
    sync::OnceLock,
};

/// Pages of the simulated machine and of the host are the same size.
pub const PAGE: u64 = 4096;

const MADV_GUARD_INSTALL: i32 = 102;
const MADV_GUARD_REMOVE: i32 = 103;

/// What the host lets code do with pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Protection {
    /// Nothing.
    None,
    /// Read.
    Read,
    /// Read and write.
    ReadWrite,
    /// Read and execute.
    ReadExecute,
    /// Everything; only where an image asks for it.
    All,
}

impl Protection {
    const fn bits(self) -> i32 {
        match self {
            Self::None => libc::PROT_NONE,
            Self::Read => libc::PROT_READ,
            Self::ReadWrite => libc::PROT_READ | libc::PROT_WRITE,
            Self::ReadExecute => libc::PROT_READ | libc::PROT_EXEC,
            Self::All => libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC,
        }
    }
}

/// Reserves `length` bytes of address space without access.
pub fn reserve(length: u64) -> io::Result<u64> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: a new anonymous mapping at an address of the host's choice touches nothing that exists.
    let address = unsafe { libc::mmap(ptr::null_mut(), to_usize(length), libc::PROT_NONE, flags, -1, 0) };
    if address == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // Huge pages would make a block of 4 KiB cost 2 MiB. A host without them refuses the advice, which is as good.
    // SAFETY: the range is the mapping made above; the advice changes no contents.
    unsafe { libc::madvise(address, to_usize(length), libc::MADV_NOHUGEPAGE) };
    Ok(address as u64)
}

/// Gives a reservation back.
///
/// # Safety
/// `address` and `length` are those of a [`reserve`], and nothing refers to it any more.
pub unsafe fn release(address: u64, length: u64) {
    // SAFETY: the caller's contract.
    unsafe { libc::munmap(address as *mut _, to_usize(length)) };
}

/// Changes the protection of whole pages.
///
/// # Safety
/// The range lies in a reservation of this process, and no Rust reference depends on the access that is taken away.
pub unsafe fn protect(address: u64, length: u64, protection: Protection) -> io::Result<()> {
    // SAFETY: the caller's contract.
    result(unsafe { libc::mprotect(address as *mut _, to_usize(length), protection.bits()) })
}

/// Makes whole pages fault on every access, without splitting their mapping; their contents are lost.
///
/// # Safety
/// The range lies in a reservation of this process, and no Rust reference points into it.
pub unsafe fn install_guard(address: u64, length: u64) -> io::Result<()> {
    // SAFETY: the caller's contract.
    result(unsafe { libc::madvise(address as *mut _, to_usize(length), MADV_GUARD_INSTALL) })
}

/// Undoes [`install_guard`]: the pages read zero.
///
/// # Safety
/// As for [`install_guard`].
pub unsafe fn remove_guard(address: u64, length: u64) -> io::Result<()> {
    // SAFETY: the caller's contract.
    result(unsafe { libc::madvise(address as *mut _, to_usize(length), MADV_GUARD_REMOVE) })
}

/// Gives the contents of whole pages back to the host; they read zero from now on.
///
/// # Safety
/// As for [`install_guard`].
pub unsafe fn discard(address: u64, length: u64) -> io::Result<()> {
    // SAFETY: the caller's contract.
    result(unsafe { libc::madvise(address as *mut _, to_usize(length), libc::MADV_DONTNEED) })
}

/// Keeps a range a mapping of its own, whatever protection it and its neighbours have: changing that is quicker then.
///
/// # Safety
/// The range lies in a reservation of this process.
pub unsafe fn set_apart(address: u64, length: u64) -> io::Result<()> {
    // What is left out of core dumps is no part of a mapping that is not.
    // SAFETY: the caller's contract; the advice changes no contents.
    result(unsafe { libc::madvise(address as *mut _, to_usize(length), libc::MADV_DONTDUMP) })
}

/// Writes to pages that cannot be written, without a change of their protection. False where the host does not let a process do that.
///
/// # Safety
/// The range lies in a reservation of this process, and no Rust reference points into it.
pub unsafe fn write_protected(address: u64, bytes: &[u8]) -> bool {
    static MEMORY: OnceLock<Option<File>> = OnceLock::new();
    let memory = MEMORY.get_or_init(|| OpenOptions::new().write(true).open("/proc/self/mem").ok());
    memory.as_ref().is_some_and(|memory| memory.write_all_at(bytes, address).is_ok())
}

fn result(code: i32) -> io::Result<()> {
    if code == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Addresses and lengths of the machine as the host's; the lab runs on 64-bit hosts only.
#[allow(clippy::cast_possible_truncation, reason = "usize has 64 bits: the crate does not build elsewhere")]
pub const fn to_usize(value: u64) -> usize {
    value as usize
}
