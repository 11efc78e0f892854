//! Memory descriptor lists of buffers that the I/O manager locks ("Using MDLs").

use windows_sys::Wdk::Foundation::MDL;

use super::layout::{self, MDL_PAGES_LOCKED};
use crate::{
    at,
    kernel::Kernel,
    memory::{PAGE, Ptr},
};

/// Describes a buffer whose pages are locked; `operation` is `MDL_WRITE_OPERATION` where drivers write to it.
pub fn lock(k: &Kernel, buffer: Ptr<u8>, length: usize, operation: i16) -> Ptr<MDL> {
    let offset = buffer.address() % PAGE;
    let start = buffer.address() - offset;
    let pages = (offset + length as u64).div_ceil(PAGE);
    let size = size_of::<MDL>() + pages as usize * size_of::<u64>();
    let mdl = k.memory.allocate_object_bytes(size).cast::<MDL>();
    at!(mdl, Size).cast().write([size as i16, MDL_PAGES_LOCKED | operation]);
    layout::store(at!(mdl, StartVa), Ptr::new(start));
    at!(mdl, ByteCount).cast().write([length as u32, offset as u32]);
    let frames = mdl.offset(1).cast::<u64>();
    for page in 0..pages {
        let frame = k.memory.physical_address(start + page * PAGE) / PAGE;
        frames.offset(page as usize).write(frame);
    }
    mdl
}

/// Whether the structure of so many bytes at an address looks like one.
pub(crate) fn is_mdl(address: u64, bytes: u64) -> bool {
    let mdl = Ptr::<MDL>::new(address);
    let size = u64::from(at!(mdl, Size).read().unsigned_abs());
    size >= size_of::<MDL>() as u64
        && size.next_multiple_of(64) == bytes
        && at!(mdl, MdlFlags).read() & MDL_PAGES_LOCKED != 0
}

/// Unlocks and frees what [`lock`] returned; a mapping to system addresses goes with it.
pub fn unlock(k: &Kernel, mdl: Ptr<MDL>) {
    k.memory.free_object(mdl);
}
