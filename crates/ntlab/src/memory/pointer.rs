//! Typed addresses in the machine's memory.

use std::{fmt, marker::PhantomData};

/// The address of a `T` in the machine's memory, as the driver handed it over or will see it. Nothing is known about it: every access is
/// checked against the machine's page map, and a bad one is a finding with the driver's stack.
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

impl<T: Copy> Ptr<T> {
    /// Reads the value.
    #[must_use]
    pub fn read(self) -> T {
        todo!()
    }

    /// Writes the value.
    pub fn write(self, _value: T) {
        todo!()
    }
}
