//! Memory descriptor lists of buffers that the I/O manager locks ("Using MDLs").

use windows_sys::Wdk::Foundation::MDL;

use crate::{finding::Finding, kernel::Kernel, memory::Ptr};

/// Describes a buffer whose pages are locked; `operation` is `MDL_WRITE_OPERATION` where drivers write to it.
pub fn lock(k: &Kernel, buffer: Ptr<u8>, length: usize, operation: i16) -> Ptr<MDL> {
    let _ = (k, buffer, length, operation);
    Finding::not_modelled("direct I/O").raise()
}

/// Unmaps, unlocks and frees what [`lock`] returned.
pub fn unlock(k: &Kernel, mdl: Ptr<MDL>) {
    k.memory.free_object(mdl);
}
