//! Lists that the PnP manager and drivers hand each other in paged pool.

use std::rc::Rc;

use super::resources::{Malformed, Requirements};
use crate::{
    kernel::Kernel,
    memory::{Owner, PoolKind, Ptr, Request},
};

/// No sensible requirements list is longer.
const MOST: usize = 1 << 20;

/// Bytes in paged pool.
pub fn allocate(k: &Kernel, bytes: &[u8]) -> Ptr<u8> {
    make(k, bytes, Owner::Kernel)
}

/// Bytes in paged pool that a driver may free, and return others.
pub fn allocate_replaceable(k: &Kernel, bytes: &[u8]) -> Ptr<u8> {
    make(k, bytes, Owner::Replaceable)
}

fn make(k: &Kernel, bytes: &[u8], owner: Owner) -> Ptr<u8> {
    let request = Request { kind: PoolKind::Paged, owner, ..Request::kernel(bytes.len() as u64, b"Ppin") };
    let block = k.memory.pool.allocate(request, Rc::default());
    block.write_bytes(bytes);
    block
}

/// Frees a list, whoever allocated it; none is none.
pub fn free(k: &Kernel, list: u64) {
    if list != 0 {
        k.memory.free_pool(k, Ptr::new(list), None);
    }
}

/// Reads a requirements list.
///
/// # Errors
///
/// It says that it holds more than there is.
pub fn read_requirements(list: u64) -> Result<Requirements, Malformed> {
    if list == 0 {
        return Ok(Requirements::default());
    }
    let size = Requirements::size_of(Ptr::<[u8; 4]>::new(list).read());
    Requirements::from_bytes(&Ptr::<u8>::new(list).read_bytes(size.min(MOST)))
}

/// The size of a structure as its `Size` field has it.
#[allow(clippy::cast_possible_truncation, reason = "asserted")]
pub const fn size_field<T>() -> u16 {
    const { assert!(size_of::<T>() <= u16::MAX as usize) };
    size_of::<T>() as u16
}
