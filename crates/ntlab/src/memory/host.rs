//! The few calls to the host's kernel that make, protect and release address space, and processes that have one of their own.

use std::{
    arch::x86_64::{_MM_HINT_T0, _mm_prefetch},
    fs::{File, OpenOptions},
    io::{self, PipeReader, PipeWriter, Read as _},
    os::unix::{fs::FileExt as _, process::ExitStatusExt as _},
    process::ExitStatus,
    ptr::{self, NonNull},
    slice,
    sync::{PoisonError, RwLock, atomic::AtomicU64},
};

/// Pages of the simulated machine and of the host are the same size.
pub const PAGE: u64 = 4096;

/// Bytes of a line of the host's caches.
const CACHE_LINE: u64 = 64;
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

/// Gives whole pages memory before they are touched. Hosts that cannot do so (Linux before 5.14) give it then.
///
/// # Safety
/// The range lies in a reservation of this process, and can be written.
pub unsafe fn populate(address: u64, length: u64) {
    // SAFETY: the caller's contract; the advice changes no contents.
    unsafe { libc::madvise(address as *mut _, to_usize(length), libc::MADV_POPULATE_WRITE) };
}

/// Has the processor bring memory to its caches that is used soon.
#[inline]
pub fn prefetch(address: u64, length: u64) {
    for line in 0..length.div_ceil(CACHE_LINE) {
        let place = address.wrapping_add(line * CACHE_LINE) as *const i8;
        // SAFETY: a prefetch changes nothing, and where nothing is it does nothing.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(place) };
    }
}

/// Gives the contents of whole pages back to the host; they read zero from now on.
///
/// # Safety
/// As for [`install_guard`].
pub unsafe fn discard(address: u64, length: u64) -> io::Result<()> {
    // SAFETY: the caller's contract.
    result(unsafe { libc::madvise(address as *mut _, to_usize(length), libc::MADV_DONTNEED) })
}

/// What a range is [set apart](set_apart) from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Neighbours {
    /// Memory that is not set apart.
    Common,
    /// Pages that are set apart each.
    Apart,
}

/// Keeps a range a mapping of its own, whatever protection it and its neighbours have: changing that is quicker then.
///
/// # Safety
/// The range lies in a reservation of this process.
pub unsafe fn set_apart(address: u64, length: u64, from: Neighbours) -> io::Result<()> {
    // Mappings with different advice are not made one. What these say is about files and swap space only.
    let advice = match from {
        Neighbours::Common => libc::MADV_DONTDUMP,
        Neighbours::Apart if (address / length).is_multiple_of(2) => libc::MADV_RANDOM,
        Neighbours::Apart => libc::MADV_SEQUENTIAL,
    };
    // SAFETY: the caller's contract; the advice changes no contents.
    result(unsafe { libc::madvise(address as *mut _, to_usize(length), advice) })
}

/// Writes to pages that cannot be written, without a change of their protection. False where the host does not let a process do that.
///
/// # Safety
/// The range lies in a reservation of this process, and no Rust reference points into it.
pub unsafe fn write_protected(address: u64, bytes: &[u8]) -> bool {
    let memory = MEMORY.read().unwrap_or_else(PoisonError::into_inner);
    if let Some(memory) = &*memory {
        return memory.write_all_at(bytes, address).is_ok();
    }
    drop(memory);
    let Ok(file) = OpenOptions::new().write(true).open("/proc/self/mem") else { return false };
    let written = file.write_all_at(bytes, address).is_ok();
    *MEMORY.write().unwrap_or_else(PoisonError::into_inner) = Some(file);
    written
}

/// Whether there is something to read at an address.
#[cfg(test)]
pub fn is_readable(address: u64) -> bool {
    let mut byte = 0_u8;
    let local = libc::iovec { iov_base: (&raw mut byte).cast(), iov_len: 1 };
    let remote = libc::iovec { iov_base: address as *mut _, iov_len: 1 };
    let own = std::process::id().cast_signed();
    // SAFETY: the call writes one byte, to `byte`, and refuses what cannot be read.
    let read = unsafe { libc::process_vm_readv(own, &raw const local, 1, &raw const remote, 1, 0) };
    read == 1
}

/// The memory of this process, as a file: of the process that opened it, whichever writes.
static MEMORY: RwLock<Option<File>> = RwLock::new(None);

/// Numbers that this process and those that it forks share, zero at first.
#[derive(Debug)]
pub struct Shared {
    numbers: NonNull<AtomicU64>,
}

/// How many there are.
const SHARED: usize = 4096 / size_of::<AtomicU64>();

// SAFETY: it owns its page as a box would, and what is in it can be used by any thread.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    /// A page of them.
    ///
    /// # Errors
    /// The host's, where it has no memory left.
    pub fn new() -> io::Result<Self> {
        let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
        let length = SHARED * size_of::<AtomicU64>();
        // SAFETY: a new anonymous mapping at an address of the host's choice touches nothing that exists.
        let address = unsafe { libc::mmap(ptr::null_mut(), length, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        NonNull::new(address.cast()).map(|numbers| Self { numbers }).ok_or_else(io::Error::last_os_error)
    }

    /// One of them.
    ///
    /// # Panics
    /// Where there are not so many.
    pub fn number(&self, index: usize) -> &AtomicU64 {
        // SAFETY: the page is mapped until the drop, and zeros are numbers.
        let numbers = unsafe { slice::from_raw_parts(self.numbers.as_ptr(), SHARED) };
        &numbers[index]
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: it is the mapping made in `new`; nothing borrows from it any more.
        unsafe { libc::munmap(self.numbers.as_ptr().cast(), SHARED * size_of::<AtomicU64>()) };
    }
}

/// Which of two processes this is.
#[derive(Debug)]
pub enum Fork {
    /// The one that was there, with the new one.
    Parent(Child),
    /// The new one. What it writes here the other one [waits](Child::wait) for; it leaves with [`end_child`].
    Child(PipeWriter),
}

/// Another process.
#[derive(Debug)]
pub struct Child {
    id: libc::pid_t,
    results: PipeReader,
}

/// Makes a copy of this process, which ends with it at the latest. The copy has this thread only: locks that other threads hold stay locked
/// there.
///
/// # Errors
/// The host's, where it refuses another process.
pub fn fork() -> io::Result<Fork> {
    let (results, writer) = io::pipe()?;
    // SAFETY: the copy goes on with this thread alone, and uses what this process has as its own.
    match unsafe { libc::fork() } {
        0 => {
            // SAFETY: the call takes a number, and changes what happens when the parent ends.
            unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
            *MEMORY.write().unwrap_or_else(PoisonError::into_inner) = None;
            Ok(Fork::Child(writer))
        }
        id if id > 0 => Ok(Fork::Parent(Child { id, results })),
        _ => Err(io::Error::last_os_error()),
    }
}

impl Child {
    /// What the process wrote, and how it ended.
    ///
    /// # Errors
    /// The host's.
    pub fn wait(mut self) -> io::Result<(Vec<u8>, ExitStatus)> {
        let mut written = Vec::new();
        self.results.read_to_end(&mut written)?;
        let mut status = 0;
        // SAFETY: the process is a child of this one that nobody else waits for; `status` is a valid place.
        if unsafe { libc::waitpid(self.id, &raw mut status, 0) } < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok((written, ExitStatus::from_raw(status)))
    }
}

/// Ends a forked process, and nothing else that the process it is a copy of would do at its end.
pub fn end_child(success: bool) -> ! {
    // SAFETY: the call does not return, and touches no memory.
    unsafe { libc::_exit(i32::from(!success)) }
}

fn result(code: i32) -> io::Result<()> {
    if code == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Addresses and lengths of the machine as the host's; the lab runs on 64-bit hosts only.
#[allow(clippy::cast_possible_truncation, reason = "usize has 64 bits: the crate does not build elsewhere")]
pub const fn to_usize(value: u64) -> usize {
    value as usize
}
