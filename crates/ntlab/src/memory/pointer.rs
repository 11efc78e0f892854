//! Typed addresses in the machine's memory.

use std::{fmt, marker::PhantomData, mem::MaybeUninit, slice};

use super::{Access, current};

/// The address of a `T` in the machine's memory, as the driver handed it over or will see it.
///
/// Nothing is known about it: every access is checked against the machine's page map, and a bad one is a finding with the driver's
/// stack.
pub struct Ptr<T> {
    address: u64,
    target: PhantomData<*mut T>,
}

impl<T> Clone for Ptr<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Ptr<T> {}
impl<T> Default for Ptr<T> {
    fn default() -> Self {
        Self::null()
    }
}
impl<T> PartialEq for Ptr<T> {
    fn eq(&self, other: &Self) -> bool {
        self.address == other.address
    }
}
impl<T> Eq for Ptr<T> {}
impl<T> fmt::Debug for Ptr<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.address)
    }
}

impl<T> Ptr<T> {
    /// The address as a pointer.
    #[must_use]
    pub const fn new(address: u64) -> Self {
        Self { address, target: PhantomData }
    }

    /// The null pointer.
    #[must_use]
    pub const fn null() -> Self {
        Self::new(0)
    }

    /// Whether it is null.
    #[must_use]
    pub const fn is_null(self) -> bool {
        self.address == 0
    }

    /// The address.
    #[must_use]
    pub const fn address(self) -> u64 {
        self.address
    }

    /// The same address as a pointer to something else.
    #[must_use]
    pub const fn cast<U>(self) -> Ptr<U> {
        Ptr::new(self.address)
    }

    /// The pointer to the `count`th `T` from here.
    #[must_use]
    pub const fn offset(self, count: usize) -> Self {
        Self::new(self.address.wrapping_add((count * size_of::<T>()) as u64))
    }
}

impl<T> Ptr<T> {
    /// The pointer to a field, from where the field is in some other `T`: what [`at!`](crate::at) expands to.
    #[doc(hidden)]
    #[must_use]
    #[inline]
    pub fn field<F>(self, whole: *const T, field: *const F) -> Ptr<F> {
        Ptr::new(self.address.wrapping_add((field.addr() - whole.addr()) as u64))
    }
}

impl<T, const N: usize> Ptr<[T; N]> {
    /// The pointer to an element. Arrays at the end of structures are longer than their type says.
    #[must_use]
    pub const fn element(self, index: usize) -> Ptr<T> {
        self.cast::<T>().offset(index)
    }
}

impl<T: Copy> Ptr<T> {
    /// Reads the value. What lies there is taken for a `T`: `T` is a type of which any bytes are a value.
    #[must_use]
    #[track_caller]
    #[inline]
    pub fn read(self) -> T {
        current::check(self.address, size_of::<T>() as u64, Access::Read);
        // SAFETY: all bytes lie in readable pages of this thread's machine, which hold plain data that no reference points to.
        unsafe { (self.address as *const T).read_unaligned() }
    }

    /// Writes the value.
    #[track_caller]
    #[inline]
    pub fn write(self, value: T) {
        current::check(self.address, size_of::<T>() as u64, Access::Write);
        // SAFETY: all bytes lie in writable pages of this thread's machine, which hold plain data that no reference points to.
        unsafe { (self.address as *mut T).write_unaligned(value) };
    }

    /// Writes a value and returns the one before, as the interlocked exchanges that drivers inline.
    #[inline]
    pub fn replace(self, value: T) -> T {
        let before = self.read();
        self.write(value);
        before
    }
}

impl<T> Ptr<T> {
    /// Looks once whether all of a `T` can be read; its members are read without another look. Reading it as a whole takes longer where some
    /// members were just written: the processor waits until those are in its cache.
    #[must_use]
    #[track_caller]
    #[inline]
    pub fn readable(self) -> Readable<T> {
        current::check(self.address, size_of::<T>() as u64, Access::Read);
        Readable(self)
    }

    /// Looks once whether all of a `T` can be written.
    #[must_use]
    #[track_caller]
    #[inline]
    pub fn writable(self) -> Writable<T> {
        current::check(self.address, size_of::<T>() as u64, Access::Write);
        Writable(self)
    }

    /// Stops the lab if a member is none of this `T`; where it was made by [`at!`](crate::at), that is known when this is compiled.
    #[inline]
    fn assert_member<F>(self, member: Ptr<F>) {
        let offset = member.address.wrapping_sub(self.address);
        assert!(offset <= (size_of::<T>() - size_of::<F>()) as u64, "a member of something else");
    }
}

/// A `T` whose bytes can be read now: not to be kept over anything that lets driver code run or changes pages.
#[derive(Clone, Copy, Debug)]
pub struct Readable<T>(Ptr<T>);

impl<T> Readable<T> {
    /// Reads a member.
    #[must_use]
    #[inline]
    pub fn get<F: Copy>(self, member: Ptr<F>) -> F {
        self.0.assert_member(member);
        // SAFETY: the member lies in what was found readable and still is; no reference points to it, and any bytes are an `F`.
        unsafe { (member.address as *const F).read_unaligned() }
    }
}

/// A `T` whose bytes can be written now: not to be kept over anything that lets driver code run or changes pages.
#[derive(Clone, Copy, Debug)]
pub struct Writable<T>(Ptr<T>);

impl<T> Writable<T> {
    /// Writes a member.
    #[inline]
    pub fn set<F: Copy>(self, member: Ptr<F>, value: F) {
        self.0.assert_member(member);
        // SAFETY: the member lies in what was found writable and still is; no reference points to it.
        unsafe { (member.address as *mut F).write_unaligned(value) };
    }
}

impl Ptr<u8> {
    /// Reads `length` bytes.
    #[must_use]
    pub fn read_bytes(self, length: usize) -> Vec<u8> {
        if length == 0 {
            return Vec::new();
        }
        current::check(self.address, length as u64, Access::Read);
        // SAFETY: all bytes lie in readable pages of this thread's machine, which hold plain data; nothing writes to them before the copy is
        // made.
        unsafe { slice::from_raw_parts(self.address as *const u8, length) }.to_vec()
    }

    /// Reads as many bytes as `bytes` holds.
    #[inline]
    pub fn read_into(self, bytes: &mut [u8]) {
        if bytes.is_empty() {
            return;
        }
        current::check(self.address, bytes.len() as u64, Access::Read);
        // SAFETY: all bytes lie in readable pages of this thread's machine, to which no reference points, `bytes` neither.
        unsafe { (self.address as *const u8).copy_to_nonoverlapping(bytes.as_mut_ptr(), bytes.len()) };
    }

    /// Writes the bytes.
    #[inline]
    pub fn write_bytes(self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        current::check(self.address, bytes.len() as u64, Access::Write);
        // SAFETY: all bytes lie in writable pages of this thread's machine, to which no reference points, `bytes` neither.
        unsafe { (self.address as *mut u8).copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
    }

    /// Writes `value` to `length` bytes.
    #[inline]
    pub fn fill(self, length: usize, value: u8) {
        if length == 0 {
            return;
        }
        current::check(self.address, length as u64, Access::Write);
        // SAFETY: all bytes lie in writable pages of this thread's machine, to which no reference points.
        unsafe { (self.address as *mut u8).write_bytes(value, length) };
    }
}

/// The pointer to a field of what a [`Ptr`] points to, or to an element of an array field: `at!(irp, IoStatus.Information)`.
#[macro_export]
macro_rules! at {
    ($pointer:expr, $($field:ident).+ [$index:expr]) => {
        $crate::at!($pointer, $($field).+).element($index)
    };
    ($pointer:expr, $($field:ident).+) => {{
        let pointer = $pointer;
        let whole = $crate::memory::placeholder(pointer);
        let whole = whole.as_ptr();
        // SAFETY: the place lies in `whole`, and only its address is taken.
        let field = unsafe { &raw const (*whole).$($field).+ };
        pointer.field(whole, field)
    }};
}

/// Room for what a pointer points to: [`at!`](crate::at) takes the address of a field in it.
#[doc(hidden)]
#[must_use]
pub const fn placeholder<T>(_: Ptr<T>) -> MaybeUninit<T> {
    MaybeUninit::uninit()
}
