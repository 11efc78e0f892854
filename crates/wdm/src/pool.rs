//! Nonpaged pool, every allocation fallible ("`ExAllocatePool2` function", "`ExAllocatePool3` function").
//!
//! `PoolBox` owns one value, `PoolArc` shares one, `PoolArray` owns a run of them. Pool blocks do not move, so kernel
//! objects and callback contexts live in them. Allocating and freeing is allowed at DISPATCH_LEVEL and below; dropping
//! runs the drop code of what is inside, at the IRQL that this one asks for.

use core::mem;
use core::ops::{Deref, DerefMut};
use core::ptr::{self, NonNull};
use core::slice;
use core::sync::atomic::{AtomicPtr, AtomicUsize, Ordering, fence};

use wdk_sys::{
    PCPOOL_EXTENDED_PARAMETER, POOL_EXTENDED_PARAMETER, POOL_EXTENDED_PARAMETER_TYPE, POOL_FLAG_CACHE_ALIGNED,
    POOL_FLAG_NON_PAGED, POOL_FLAGS, PVOID, SIZE_T, ULONG, ntddk,
};

use crate::irql::Passive;
use crate::status::{NtStatus, Result};
use crate::unicode;

/// What pool promises of every block ("`ExAllocatePool2` function").
const POOL_ALIGNMENT: usize = 16;
/// What `POOL_FLAG_CACHE_ALIGNED` gives on x64.
const CACHE_LINE: usize = 64;

/// Four characters by which pool tools attribute a block to its owner.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Tag(ULONG);

impl Tag {
    /// The tag that tools show as `name`.
    ///
    /// IRQL: any.
    #[must_use]
    pub const fn new(name: [u8; 4]) -> Self {
        Self(ULONG::from_le_bytes(name))
    }

    /// The tag as pool functions take it.
    pub(crate) const fn raw(self) -> ULONG {
        self.0
    }
}

/// Memory for `count` `T`s, not yet written.
fn allocate<T>(tag: Tag, count: usize) -> Result<NonNull<T>> {
    const { assert!(align_of::<T>() <= CACHE_LINE, "pool aligns to a cache line at most") };
    let block = allocate_bytes(tag, size_of::<T>(), count, align_of::<T>()).ok_or(NtStatus::INSUFFICIENT_RESOURCES)?;
    Ok(block.cast())
}

/// What [`allocate`] does for any type, in the image once.
#[inline(never)]
fn allocate_bytes(tag: Tag, size: usize, count: usize, align: usize) -> Option<NonNull<u8>> {
    let bytes = size.checked_mul(count)?;
    // SAFETY: nonpaged pool may be allocated at DISPATCH_LEVEL and below, where this function is called; tag and size are
    // not 0.
    let block = unsafe { ntddk::ExAllocatePool2(flags(align), bytes_of(bytes)?, tag.raw()) };
    aligned(block, tag, align)
}

/// Memory for one `T` on the NUMA node `node` where the system can and has memory there.
fn allocate_on<T>(tag: Tag, node: Option<u16>, passive: Passive<'_>) -> Result<NonNull<T>> {
    let Some((node, allocator)) = node.and_then(|node| Some((node, preferring_allocator(passive)?))) else {
        return allocate(tag, 1);
    };
    let bytes = bytes_of(size_of::<T>()).ok_or(NtStatus::INVALID_PARAMETER)?;
    let block = allocate_near(allocator, flags(align_of::<T>()), bytes, tag, node);
    Ok(aligned(block, tag, align_of::<T>()).ok_or(NtStatus::INSUFFICIENT_RESOURCES)?.cast())
}

const fn flags(align: usize) -> POOL_FLAGS {
    POOL_FLAG_NON_PAGED | if align > POOL_ALIGNMENT { POOL_FLAG_CACHE_ALIGNED } else { 0 }
}

/// As pool functions take it; they have no block without bytes.
fn bytes_of(bytes: usize) -> Option<SIZE_T> {
    SIZE_T::try_from(bytes.max(1)).ok()
}

/// The block, if the kernel has kept its promise.
fn aligned(block: PVOID, tag: Tag, align: usize) -> Option<NonNull<u8>> {
    let block = NonNull::new(block.cast::<u8>())?;
    // An alignment is a power of two.
    if block.addr().get() & align.wrapping_sub(1) == 0 {
        return Some(block);
    }
    free(block, tag);
    None
}

/// Gives back what [`allocate`] returned.
fn free<T>(block: NonNull<T>, tag: Tag) {
    // SAFETY: the block came from `allocate` with this tag, and its owner is done with it; nonpaged pool may be freed
    // at DISPATCH_LEVEL and below.
    unsafe { ntddk::ExFreePoolWithTag(block.as_ptr().cast(), tag.raw()) };
}

type ExAllocatePool3 = unsafe extern "C" fn(POOL_FLAGS, SIZE_T, ULONG, PCPOOL_EXTENDED_PARAMETER, ULONG) -> PVOID;

/// `ExAllocatePool3` where this system has it.
///
/// Not imported: an image that names it would not load where it is missing.
fn preferring_allocator(_: Passive<'_>) -> Option<ExAllocatePool3> {
    static FOUND: AtomicPtr<core::ffi::c_void> = AtomicPtr::new(ptr::null_mut());
    let mut routine = FOUND.load(Ordering::Relaxed);
    if routine.is_null() {
        let mut name = unicode!("ExAllocatePool3").raw();
        // SAFETY: PASSIVE_LEVEL by the token; the name outlives the call and is only read.
        routine = unsafe { ntddk::MmGetSystemRoutineAddress(&raw mut name) };
        FOUND.store(routine, Ordering::Relaxed);
    }
    if routine.is_null() {
        return None;
    }
    // SAFETY: the kernel's routine of that name has this signature ("`ExAllocatePool3` function").
    Some(unsafe { mem::transmute::<PVOID, ExAllocatePool3>(routine) })
}

fn allocate_near(allocator: ExAllocatePool3, flags: POOL_FLAGS, bytes: SIZE_T, tag: Tag, node: u16) -> PVOID {
    // SAFETY: all members are integers and pointers, for which zero is a value.
    let mut parameter: POOL_EXTENDED_PARAMETER = unsafe { mem::zeroed() };
    parameter.__bindgen_anon_1.set_Type(u64::from(POOL_EXTENDED_PARAMETER_TYPE::PoolExtendedParameterNumaNode));
    parameter.__bindgen_anon_1.set_Optional(1);
    parameter.__bindgen_anon_2.PreferredNode = node.into();
    // SAFETY: as for ExAllocatePool2; the one parameter outlives the call.
    unsafe { allocator(flags, bytes, tag.raw(), &raw const parameter, 1) }
}

/// One value in nonpaged pool, owned.
pub struct PoolBox<T> {
    block: NonNull<T>,
    tag: Tag,
}

// SAFETY: the box owns its value as a plain `T` would.
unsafe impl<T: Send> Send for PoolBox<T> {}
// SAFETY: a shared box gives out nothing but `&T`.
unsafe impl<T: Sync> Sync for PoolBox<T> {}

impl<T> PoolBox<T> {
    /// Moves `value` to pool.
    ///
    /// IRQL: <= DISPATCH_LEVEL.
    ///
    /// # Errors
    ///
    /// `INSUFFICIENT_RESOURCES` where there is no memory; the value is dropped.
    pub fn new(tag: Tag, value: T) -> Result<Self> {
        let block = allocate::<T>(tag, 1)?;
        // SAFETY: the block is large and aligned enough for a `T` and nobody else's.
        unsafe { block.write(value) };
        Ok(Self { block, tag })
    }

    /// Moves `value` to pool, or gives it back where there is no memory.
    ///
    /// IRQL: <= DISPATCH_LEVEL.
    pub(crate) fn new_or_back(tag: Tag, value: T) -> core::result::Result<Self, T> {
        let Ok(block) = allocate::<T>(tag, 1) else {
            return Err(value);
        };
        // SAFETY: the block is large and aligned enough for a `T` and nobody else's.
        unsafe { block.write(value) };
        Ok(Self { block, tag })
    }

    /// Moves `value` to pool, on the NUMA node `node` where the system can and has memory there.
    ///
    /// IRQL: PASSIVE_LEVEL.
    ///
    /// # Errors
    ///
    /// As for [`PoolBox::new`].
    pub fn new_on_node(tag: Tag, value: T, node: Option<u16>, passive: Passive<'_>) -> Result<Self> {
        let block = allocate_on::<T>(tag, node, passive)?;
        // SAFETY: the block is large and aligned enough for a `T` and nobody else's.
        unsafe { block.write(value) };
        Ok(Self { block, tag })
    }

    /// Where the value is, for as long as the box lives.
    pub(crate) const fn as_ptr(&self) -> *mut T {
        self.block.as_ptr()
    }

    /// Gives up ownership; [`PoolBox::from_raw`] takes it again.
    pub(crate) const fn into_raw(self) -> *mut T {
        let block = self.block.as_ptr();
        mem::forget(self);
        block
    }

    /// Takes ownership of what [`PoolBox::into_raw`] gave up.
    ///
    /// # Safety
    ///
    /// `block` came from `into_raw` of a box with this `tag`, and this is the only call since.
    pub(crate) const unsafe fn from_raw(tag: Tag, block: NonNull<T>) -> Self {
        Self { block, tag }
    }

    /// Moves the value out and frees the block.
    ///
    /// IRQL: <= DISPATCH_LEVEL.
    #[must_use]
    pub fn into_inner(self) -> T {
        // SAFETY: the block holds a value; forgetting the box keeps it from being dropped in place.
        let value = unsafe { self.block.read() };
        free(self.block, self.tag);
        mem::forget(self);
        value
    }
}

impl<T> Deref for PoolBox<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: the block holds a value for as long as the box lives.
        unsafe { self.block.as_ref() }
    }
}

impl<T> DerefMut for PoolBox<T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as above, and the box is borrowed exclusively.
        unsafe { self.block.as_mut() }
    }
}

impl<T> Drop for PoolBox<T> {
    fn drop(&mut self) {
        // SAFETY: the block holds a value, which nobody uses any more.
        unsafe { self.block.drop_in_place() };
        free(self.block, self.tag);
    }
}

struct Counted<T> {
    owners: AtomicUsize,
    value: T,
}

/// One value in nonpaged pool, shared by counting; the last owner drops it.
pub struct PoolArc<T> {
    block: NonNull<Counted<T>>,
    tag: Tag,
}

// SAFETY: any owner may read the value and the last one may drop it, so it must be both.
unsafe impl<T: Send + Sync> Send for PoolArc<T> {}
// SAFETY: as above; a shared PoolArc can be cloned.
unsafe impl<T: Send + Sync> Sync for PoolArc<T> {}

impl<T> PoolArc<T> {
    /// Moves `value` to pool.
    ///
    /// IRQL: <= DISPATCH_LEVEL.
    ///
    /// # Errors
    ///
    /// `INSUFFICIENT_RESOURCES` where there is no memory; the value is dropped.
    pub fn new(tag: Tag, value: T) -> Result<Self> {
        Self::from_box(PoolBox::new(tag, Counted { owners: AtomicUsize::new(1), value })?)
    }

    /// Moves `value` to pool, on the NUMA node `node` where the system can and has memory there.
    ///
    /// IRQL: PASSIVE_LEVEL.
    ///
    /// # Errors
    ///
    /// As for [`PoolArc::new`].
    pub fn new_on_node(tag: Tag, value: T, node: Option<u16>, passive: Passive<'_>) -> Result<Self> {
        let counted = Counted { owners: AtomicUsize::new(1), value };
        Self::from_box(PoolBox::new_on_node(tag, counted, node, passive)?)
    }

    fn from_box(counted: PoolBox<Counted<T>>) -> Result<Self> {
        let tag = counted.tag;
        let block = NonNull::new(counted.into_raw()).ok_or(NtStatus::INSUFFICIENT_RESOURCES)?;
        Ok(Self { block, tag })
    }

    /// The last owner is here.
    #[cold]
    #[inline(never)]
    fn end(&mut self) {
        // What the other owners did to the value comes before its end.
        fence(Ordering::Acquire);
        // SAFETY: the block came from `into_raw` with this tag, and nobody else has it any more.
        drop(unsafe { PoolBox::from_raw(self.tag, self.block) });
    }

    const fn counted(&self) -> &Counted<T> {
        // SAFETY: the block holds a value while an owner lives, and this is one.
        unsafe { self.block.as_ref() }
    }
}

impl<T> Clone for PoolArc<T> {
    fn clone(&self) -> Self {
        // Cannot overflow: each owner takes space, and 2^64 of them do not fit.
        self.counted().owners.fetch_add(1, Ordering::Relaxed);
        Self { block: self.block, tag: self.tag }
    }
}

impl<T> Deref for PoolArc<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.counted().value
    }
}

impl<T> Drop for PoolArc<T> {
    fn drop(&mut self) {
        if self.counted().owners.fetch_sub(1, Ordering::Release) == 1 {
            self.end();
        }
    }
}

/// Values side by side in nonpaged pool; their number is fixed.
pub struct PoolArray<T> {
    block: NonNull<T>,
    /// How many of them hold a value.
    length: usize,
    tag: Tag,
}

// SAFETY: the array owns its values as plain `T`s would be owned.
unsafe impl<T: Send> Send for PoolArray<T> {}
// SAFETY: a shared array gives out nothing but `&[T]`.
unsafe impl<T: Sync> Sync for PoolArray<T> {}

impl<T> PoolArray<T> {
    /// `length` values, each made by `make` from its position.
    ///
    /// IRQL: <= DISPATCH_LEVEL.
    ///
    /// # Errors
    ///
    /// `INSUFFICIENT_RESOURCES` where there is no memory.
    pub fn from_fn(tag: Tag, length: usize, mut make: impl FnMut(usize) -> T) -> Result<Self> {
        Self::try_from_fn(tag, length, |position| Ok(make(position)))
    }

    /// `length` values, each made by `make` from its position.
    ///
    /// IRQL: <= DISPATCH_LEVEL.
    ///
    /// # Errors
    ///
    /// As for [`PoolArray::from_fn`], or the first error of `make`; the values made before are dropped.
    pub fn try_from_fn(tag: Tag, length: usize, mut make: impl FnMut(usize) -> Result<T>) -> Result<Self> {
        let mut array = Self { block: allocate(tag, length)?, length: 0, tag };
        while array.length < length {
            let value = make(array.length)?;
            // SAFETY: the block has room for `length` values, and this position is below that.
            let place = unsafe { array.block.add(array.length) };
            // SAFETY: the place is inside the block, aligned, and holds nothing yet.
            unsafe { place.write(value) };
            array.length = array.length.wrapping_add(1);
        }
        Ok(array)
    }
}

impl<T> PoolArray<T> {
    /// Gives up ownership; [`PoolArray::from_raw`] takes it again.
    pub(crate) const fn into_raw(self) -> NonNull<T> {
        let block = self.block;
        mem::forget(self);
        block
    }

    /// Takes ownership of what [`PoolArray::into_raw`] gave up.
    ///
    /// # Safety
    ///
    /// `block` came from `into_raw` of an array of `length` values with this `tag`, and this is the only call since.
    pub(crate) const unsafe fn from_raw(tag: Tag, block: NonNull<T>, length: usize) -> Self {
        Self { block, length, tag }
    }
}

impl<T> Deref for PoolArray<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: the first `length` positions hold values for as long as the array lives.
        unsafe { slice::from_raw_parts(self.block.as_ptr(), self.length) }
    }
}

impl<T> DerefMut for PoolArray<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as above, and the array is borrowed exclusively.
        unsafe { slice::from_raw_parts_mut(self.block.as_ptr(), self.length) }
    }
}

impl<T> Drop for PoolArray<T> {
    fn drop(&mut self) {
        // SAFETY: the first `length` positions hold values, which nobody uses any more.
        unsafe { ptr::drop_in_place(ptr::slice_from_raw_parts_mut(self.block.as_ptr(), self.length)) };
        free(self.block, self.tag);
    }
}
