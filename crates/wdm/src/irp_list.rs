//! A list of IRPs that many add to and one routine takes from, without a lock.
//!
//! For IRPs that wait a moment, for a DPC that is queued already, say: they cannot be cancelled meanwhile. Those that may wait long
//! belong in a [`CancelSafeQueue`](crate::queue::CancelSafeQueue).

use core::marker::PhantomData;
use core::mem;
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicPtr, Ordering};

use wdk_sys::{IRP, PIRP, PVOID};

use crate::irp::PendedIrp;
use crate::irp::driver_words::{context_of, link_of, take};

/// The list. What is left in it when it is dropped fails with `UNSUCCESSFUL`.
///
/// # Invariants
///
/// Both pointers are null or the first of a chain of IRPs that nobody else has, each with its context, linked by `Flink`, the last one to
/// null: those that were added, the last first, and those that were put back, in order.
pub struct IrpList<C: Send> {
    added: AtomicPtr<IRP>,
    put_back: AtomicPtr<IRP>,
    contexts: PhantomData<fn(C) -> C>,
}

/// IRPs that were taken from an [`IrpList`], in the order in which they were added. Those that are left when it is dropped fail with
/// `UNSUCCESSFUL`.
///
/// # Invariants
///
/// As for [`IrpList`], in order.
pub struct IrpChain<C: Send> {
    first: PIRP,
    contexts: PhantomData<fn(C) -> C>,
}

// SAFETY: IRPs and contexts may go to another thread.
unsafe impl<C: Send> Send for IrpChain<C> {}

impl<C: Send> IrpList<C> {
    /// An empty list.
    ///
    /// IRQL: any.
    #[must_use]
    pub const fn new() -> Self {
        const { assert!(size_of::<C>() <= size_of::<[PVOID; 3]>(), "a context has at most three pointers") };
        const { assert!(align_of::<C>() <= align_of::<PVOID>(), "a context lies where pointers do") };
        Self {
            added: AtomicPtr::new(ptr::null_mut()),
            put_back: AtomicPtr::new(ptr::null_mut()),
            contexts: PhantomData,
        }
    }

    /// Adds an IRP.
    ///
    /// IRQL: <= DISPATCH_LEVEL.
    pub fn add(&self, irp: PendedIrp, context: C) {
        let irp = irp.into_raw();
        // SAFETY: the IRP is ours.
        let place = unsafe { context_of::<C>(irp) };
        // SAFETY: the driver's words of an IRP that is ours have room for a context.
        unsafe { place.write(context) };
        let mut first = self.added.load(Ordering::Relaxed);
        loop {
            // SAFETY: the IRP is ours until the exchange below succeeds.
            unsafe { set_next(irp, first) };
            match self.added.compare_exchange_weak(first, irp, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => return,
                Err(other) => first = other,
            }
        }
    }

    /// Whether nothing is in it at this moment.
    ///
    /// IRQL: any.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.added.load(Ordering::Relaxed).is_null() && self.put_back.load(Ordering::Relaxed).is_null()
    }

    /// Takes everything: what was put back, then what was added.
    ///
    /// IRQL: <= DISPATCH_LEVEL.
    #[must_use]
    pub fn take(&self) -> IrpChain<C> {
        let added = self.take_added();
        if self.put_back.load(Ordering::Relaxed).is_null() {
            return added;
        }
        let first = self.put_back.swap(ptr::null_mut(), Ordering::Acquire);
        IrpChain { first, contexts: PhantomData }.followed_by(added)
    }

    fn take_added(&self) -> IrpChain<C> {
        let mut added = self.added.swap(ptr::null_mut(), Ordering::Acquire);
        let mut first = ptr::null_mut();
        while !added.is_null() {
            // SAFETY: the whole chain is ours, by the invariant.
            let next = unsafe { next_of(added) };
            // SAFETY: as above.
            unsafe { set_next(added, first) };
            first = added;
            added = next;
        }
        IrpChain { first, contexts: PhantomData }
    }

    /// Puts back what the taker does not get to now; it comes before what is added.
    ///
    /// IRQL: <= DISPATCH_LEVEL.
    pub fn put_back(&self, mut chain: IrpChain<C>) {
        let first = mem::replace(&mut chain.first, ptr::null_mut());
        // Others that were put back meanwhile, by a second taker, stay in front of nobody: they are taken along.
        let others = self.put_back.swap(first, Ordering::AcqRel);
        for (irp, context) in (IrpChain::<C> { first: others, contexts: PhantomData }) {
            self.add(irp, context);
        }
    }
}

impl<C: Send> Default for IrpList<C> {
    fn default() -> Self {
        Self::new()
    }
}

impl<C: Send> Drop for IrpList<C> {
    /// IRQL: <= DISPATCH_LEVEL.
    fn drop(&mut self) {
        while !self.is_empty() {
            drop(self.take());
        }
    }
}

impl<C: Send> IrpChain<C> {
    /// Whether none is left.
    ///
    /// IRQL: any.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.first.is_null()
    }

    /// Both in one.
    #[cold]
    fn followed_by(mut self, mut others: Self) -> Self {
        let behind = mem::replace(&mut others.first, ptr::null_mut());
        let Some(mut last) = NonNull::new(self.first) else {
            self.first = behind;
            return self;
        };
        // SAFETY: the whole chain is ours, by the invariant.
        while let Some(next) = NonNull::new(unsafe { next_of(last.as_ptr()) }) {
            last = next;
        }
        // SAFETY: as above.
        unsafe { set_next(last.as_ptr(), behind) };
        self
    }
}

impl<C: Send> Iterator for IrpChain<C> {
    type Item = (PendedIrp, C);

    /// IRQL: <= DISPATCH_LEVEL.
    fn next(&mut self) -> Option<Self::Item> {
        let irp = NonNull::new(self.first)?;
        // SAFETY: the whole chain is ours, by the invariant.
        self.first = unsafe { next_of(irp.as_ptr()) };
        // SAFETY: it was added with a context, and is in the chain no more.
        Some(unsafe { take(irp) })
    }
}

impl<C: Send> Drop for IrpChain<C> {
    /// IRQL: <= DISPATCH_LEVEL.
    fn drop(&mut self) {
        for (irp, context) in &mut *self {
            drop(irp);
            drop(context);
        }
    }
}

/// The IRP after this one.
///
/// # Safety
///
/// The IRP is the caller's, and in a chain.
const unsafe fn next_of(irp: PIRP) -> PIRP {
    // SAFETY: the IRP is live.
    let link = unsafe { link_of(irp) };
    // SAFETY: the link of an IRP that is the caller's.
    unsafe { (*link).Flink }.cast()
}

/// Makes `next` the IRP after this one.
///
/// # Safety
///
/// The IRP is the caller's.
const unsafe fn set_next(irp: PIRP, next: PIRP) {
    // SAFETY: the IRP is live.
    let link = unsafe { link_of(irp) };
    // SAFETY: as in `next_of`.
    unsafe { (*link).Flink = next.cast() };
}
