//! Cancel-safe queues of IRPs ("Cancel-Safe IRP Queues").

use core::cell::UnsafeCell;
use core::ffi::c_void;
use core::marker::PhantomData;
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicUsize, Ordering};

use wdk_sys::{
    IO_CSQ, IRP, KIRQL, KSPIN_LOCK, LIST_ENTRY, NTSTATUS, PIO_CSQ, PIRP, PKIRQL, PVOID, STATUS_CANCELLED,
    STATUS_INVALID_DEVICE_STATE, STATUS_SUCCESS, ntddk,
};

use crate::imports;
use crate::irp::driver_words::{context_of, link_of, take};
use crate::irp::{FileId, IrpRef, PendedIrp};
use crate::kernel::Kernel;
use crate::pool::{PoolBox, Tag};
use crate::status::{NtStatus, Result, check};

/// What goes with an IRP while it waits; at most three pointers large, it is kept in the IRP.
pub trait QueuedContext: Send + 'static {
    /// The IRP was cancelled while it waited: completes it. IRQL: <= DISPATCH_LEVEL.
    fn cancelled(self, irp: PendedIrp)
    where
        Self: Sized,
    {
        irp.complete(NtStatus::CANCELLED);
    }
}

/// IRPs that wait, in order; one that is cancelled leaves at once.
pub struct CancelSafeQueue<C: QueuedContext> {
    queue: PoolBox<Queue<C>>,
}

/// The queue as its callbacks see it.
#[repr(C)]
struct Queue<C> {
    /// First, so that the address that callbacks are called with is that of the whole.
    csq: Kernel<IO_CSQ>,
    lock: UnsafeCell<KSPIN_LOCK>,
    /// The ends of the list; reached with the lock held, as is what follows.
    head: UnsafeCell<LIST_ENTRY>,
    open: UnsafeCell<bool>,
    /// Written with the lock held.
    length: AtomicUsize,
    context: PhantomData<C>,
}

/// Which IRP is looked for, if not any.
enum Wanted<'a, C> {
    /// One that came through a handle.
    Of(FileId),
    /// One whose context is as this says.
    With(&'a dyn Fn(&C) -> bool),
}

impl<C> Wanted<'_, C> {
    /// Whether it is this one.
    ///
    /// # Safety
    ///
    /// The IRP is in a `CancelSafeQueue<C>` whose lock is held.
    unsafe fn is(&self, irp: PIRP) -> bool {
        match self {
            // SAFETY: as the caller promises.
            Self::Of(file) => *file == unsafe { with_irp(irp, IrpRef::file) },
            Self::With(is_wanted) => {
                // SAFETY: an IRP in a queue is live.
                let context = unsafe { context_of::<C>(irp) };
                // SAFETY: it was inserted with a context, which stays where it is while the lock is held.
                is_wanted(unsafe { &*context })
            }
        }
    }
}

#[expect(clippy::non_send_fields_in_send_ty, reason = "the links are reached with the lock held")]
// SAFETY: contexts move with their IRPs, and everything else is reached with the lock held.
unsafe impl<C: Send> Send for Queue<C> {}
// SAFETY: as above.
unsafe impl<C: Send> Sync for Queue<C> {}

impl<C: QueuedContext> CancelSafeQueue<C> {
    /// An empty queue, open ("`IoCsqInitializeEx` function").
    ///
    /// IRQL: <= DISPATCH_LEVEL.
    ///
    /// # Errors
    ///
    /// `INSUFFICIENT_RESOURCES` where there is no memory, or what the kernel function returns.
    pub fn new(tag: Tag) -> Result<Self> {
        Self::initialize(PoolBox::new(tag, Self::empty())?)
    }

    const fn empty() -> Queue<C> {
        const { assert!(size_of::<C>() <= size_of::<[PVOID; 3]>(), "a context has at most three pointers") };
        const { assert!(align_of::<C>() <= align_of::<PVOID>(), "a context lies where pointers do") };
        Queue {
            csq: Kernel::zeroed(),
            lock: UnsafeCell::new(0),
            head: UnsafeCell::new(LIST_ENTRY { Flink: ptr::null_mut(), Blink: ptr::null_mut() }),
            open: UnsafeCell::new(true),
            length: AtomicUsize::new(0),
            context: PhantomData,
        }
    }

    fn initialize(queue: PoolBox<Queue<C>>) -> Result<Self> {
        let head = queue.head.get();
        // SAFETY: the queue is not shared yet; an empty list points to itself.
        unsafe { head.write(LIST_ENTRY { Flink: head, Blink: head }) };
        // SAFETY: the queue lies in nonpaged pool, where it stays; the callbacks match it.
        check(unsafe {
            ntddk::IoCsqInitializeEx(
                queue.csq.get(),
                Some(insert::<C>),
                Some(remove::<C>),
                Some(peek_next::<C>),
                Some(acquire_lock::<C>),
                Some(release_lock::<C>),
                Some(complete_cancelled::<C>),
            )
        })?;
        Ok(Self { queue })
    }

    /// Puts an IRP at the end ("`IoCsqInsertIrpEx` function"). One that is cancelled already, or whose handle is closed, goes to
    /// [`QueuedContext::cancelled`].
    ///
    /// IRQL: <= DISPATCH_LEVEL.
    ///
    /// # Errors
    ///
    /// Both back while the queue is closed; it is decided under the queue's lock.
    pub fn insert(&self, irp: PendedIrp, context: C) -> core::result::Result<(), (PendedIrp, C)> {
        let raw = irp.into_raw();
        // SAFETY: the IRP is ours; the first three words of its driver context are the driver's while it owns the IRP.
        let place = unsafe { context_of::<C>(raw) };
        // SAFETY: as above; the type has room there.
        unsafe { place.write(context) };
        // SAFETY: the queue is initialised; the IRP is marked pending, ours and in no queue.
        let status = unsafe { ntddk::IoCsqInsertIrpEx(self.queue.csq.get(), raw, ptr::null_mut(), ptr::null_mut()) };
        // Inserted: it may be gone by now.
        if status == STATUS_SUCCESS {
            return Ok(());
        }
        // SAFETY: an IRP is not null.
        let raw = unsafe { NonNull::new_unchecked(raw) };
        // SAFETY: `insert` has refused it, so it is still ours and holds the context.
        let (irp, context) = unsafe { take::<C>(raw) };
        if status == STATUS_CANCELLED {
            context.cancelled(irp);
            return Ok(());
        }
        Err((irp, context))
    }

    /// Takes the first IRP out, no longer cancelable ("`IoCsqRemoveNextIrp` function").
    ///
    /// IRQL: <= DISPATCH_LEVEL.
    #[must_use]
    pub fn remove_next(&self) -> Option<(PendedIrp, C)> {
        self.remove_matching(None)
    }

    /// Takes the first IRP of `file` out, for `IRP_MJ_CLEANUP`.
    ///
    /// IRQL: <= DISPATCH_LEVEL.
    #[must_use]
    pub fn remove_next_of(&self, file: FileId) -> Option<(PendedIrp, C)> {
        self.remove_matching(Some(&Wanted::Of(file)))
    }

    /// Takes the first IRP out whose context `is_wanted`, which is asked with the queue's lock held.
    ///
    /// IRQL: <= DISPATCH_LEVEL.
    #[must_use]
    pub fn remove_next_where(&self, is_wanted: impl Fn(&C) -> bool) -> Option<(PendedIrp, C)> {
        self.remove_matching(Some(&Wanted::With(&is_wanted)))
    }

    fn remove_matching(&self, wanted: Option<&Wanted<'_, C>>) -> Option<(PendedIrp, C)> {
        let context = wanted.map_or(ptr::null(), ptr::from_ref).cast_mut().cast::<c_void>();
        // SAFETY: the queue is initialised; `peek_next` takes this context, which lives until the call returns.
        let irp = unsafe { imports::IoCsqRemoveNextIrp(self.queue.csq.get(), context) };
        // SAFETY: what a queue gives back was inserted with a context and is ours now.
        NonNull::new(irp).map(|irp| unsafe { take(irp) })
    }

    /// Lets IRPs in.
    ///
    /// IRQL: <= DISPATCH_LEVEL.
    pub fn open(&self) {
        self.queue.with_open(|open| *open = true);
    }

    /// Lets no more IRPs in; those that are inside stay.
    ///
    /// IRQL: <= DISPATCH_LEVEL.
    pub fn close(&self) {
        self.queue.with_open(|open| *open = false);
    }

    /// Lets no more IRPs in if there are none inside; says whether that is so.
    ///
    /// IRQL: <= DISPATCH_LEVEL.
    #[must_use]
    pub fn close_if_empty(&self) -> bool {
        self.queue.with_open(|open| {
            let empty = self.is_empty();
            *open &= !empty;
            empty
        })
    }

    /// How many IRPs wait, at this moment.
    ///
    /// IRQL: any.
    #[must_use]
    pub fn len(&self) -> usize {
        self.queue.length.load(Ordering::Relaxed)
    }

    /// Whether none waits, at this moment.
    ///
    /// IRQL: any.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<C: QueuedContext> Drop for CancelSafeQueue<C> {
    /// Ends what still waits as if it were cancelled. IRQL: <= DISPATCH_LEVEL.
    fn drop(&mut self) {
        self.close();
        while let Some((irp, context)) = self.remove_next() {
            context.cancelled(irp);
        }
    }
}

impl<C> Queue<C> {
    fn acquire(&self) -> KIRQL {
        // SAFETY: at DISPATCH_LEVEL or below; the lock starts as zero and does not move.
        unsafe { imports::KeAcquireSpinLockRaiseToDpc(self.lock.get()) }
    }

    fn release(&self, before: KIRQL) {
        // SAFETY: the caller has the lock and the IRQL from before.
        unsafe { imports::KeReleaseSpinLock(self.lock.get(), before) };
    }

    /// Whether IRPs are let in.
    ///
    /// # Safety
    ///
    /// The lock is held, and the last borrow has ended.
    #[expect(clippy::mut_from_ref, reason = "the lock is what makes it exclusive")]
    const unsafe fn is_open(&self) -> &mut bool {
        // SAFETY: as the caller promises.
        unsafe { &mut *self.open.get() }
    }

    /// Changes the length; the lock is held.
    fn set_length(&self, change: impl FnOnce(usize) -> usize) {
        self.length.store(change(self.length.load(Ordering::Relaxed)), Ordering::Relaxed);
    }

    fn with_open<R>(&self, change: impl FnOnce(&mut bool) -> R) -> R {
        let before = self.acquire();
        // SAFETY: the lock is held.
        let result = change(unsafe { self.is_open() });
        self.release(before);
        result
    }
}

/// The queue that a callback is called for.
///
/// # Safety
///
/// `csq` came from a `CancelSafeQueue<C>` that lives for `'a`.
const unsafe fn queue_of<'a, C>(csq: PIO_CSQ) -> &'a Queue<C> {
    // SAFETY: the structure is the first member of the queue.
    unsafe { &*csq.cast::<Queue<C>>() }
}

/// The IRP of a link.
///
/// # Safety
///
/// `link` came from `link_of`.
const unsafe fn irp_of(link: *mut LIST_ENTRY) -> PIRP {
    const OFFSET: usize = core::mem::offset_of!(IRP, Tail.Overlay.__bindgen_anon_2.ListEntry);
    // SAFETY: the link is inside an IRP, at this offset.
    unsafe { link.byte_sub(OFFSET) }.cast()
}

/// Called with the lock held. IRQL: DISPATCH_LEVEL.
unsafe extern "C" fn insert<C>(csq: PIO_CSQ, irp: PIRP, _: PVOID) -> NTSTATUS {
    // SAFETY: called for this queue.
    let queue = unsafe { queue_of::<C>(csq) };
    let head = queue.head.get();
    // SAFETY: the lock is held.
    let open = unsafe { queue.is_open() };
    if !*open {
        return STATUS_INVALID_DEVICE_STATE;
    }
    // SAFETY: the IRP is the caller's.
    if unsafe { with_irp(irp, IrpRef::is_file_closed) } {
        // The cleanup has looked through the queue, or will when the lock is free.
        return STATUS_CANCELLED;
    }
    queue.set_length(|length| length.wrapping_add(1));
    // SAFETY: the IRP is live.
    let link = unsafe { link_of(irp) };
    // SAFETY: the lock is held, and the list is whole.
    let last = unsafe { (*head).Blink };
    // SAFETY: the link is in no list.
    unsafe { link.write(LIST_ENTRY { Flink: head, Blink: last }) };
    // SAFETY: the list is whole.
    unsafe { (*last).Flink = link };
    // SAFETY: as above.
    unsafe { (*head).Blink = link };
    STATUS_SUCCESS
}

/// Called with the lock held. IRQL: DISPATCH_LEVEL.
unsafe extern "C" fn remove<C>(csq: PIO_CSQ, irp: PIRP) {
    // SAFETY: called for this queue.
    let queue = unsafe { queue_of::<C>(csq) };
    queue.set_length(|length| length.wrapping_sub(1));
    // SAFETY: the IRP is live.
    let link = unsafe { link_of(irp) };
    // SAFETY: the IRP is in this queue, and the lock is held.
    let LIST_ENTRY { Flink: next, Blink: previous } = unsafe { link.read() };
    // SAFETY: the list is whole.
    unsafe { (*previous).Flink = next };
    // SAFETY: as above.
    unsafe { (*next).Blink = previous };
}

/// The first IRP after `after`, or of all, that is wanted. Called with the lock held, from `remove_matching`. IRQL: DISPATCH_LEVEL.
unsafe extern "C" fn peek_next<C>(csq: PIO_CSQ, after: PIRP, wanted: PVOID) -> PIRP {
    // SAFETY: called for this queue.
    let head = unsafe { queue_of::<C>(csq) }.head.get();
    // SAFETY: an IRP that the kernel peeked before is live.
    let start = if after.is_null() { head } else { unsafe { link_of(after) } };
    // SAFETY: the lock is held, and the list is whole.
    let first = unsafe { (*start).Flink };
    // SAFETY: what `remove_matching` passes: null for any.
    match unsafe { wanted.cast::<Wanted<'_, C>>().as_ref() } {
        // SAFETY: the list is whole, and its lock is held.
        Some(wanted) => unsafe { first_wanted(head, first, wanted) },
        None if first == head => ptr::null_mut(),
        // SAFETY: what is linked is an IRP's.
        None => unsafe { irp_of(first) },
    }
}

/// The first IRP from `link` on that is wanted.
///
/// # Safety
///
/// `link` is in the list of a `CancelSafeQueue<C>` that begins at `head`, and the queue's lock is held.
#[inline(never)]
unsafe fn first_wanted<C>(head: *mut LIST_ENTRY, mut link: *mut LIST_ENTRY, wanted: &Wanted<'_, C>) -> PIRP {
    while link != head {
        // SAFETY: what is linked is an IRP's.
        let irp = unsafe { irp_of(link) };
        // SAFETY: the IRP is in the queue, and the lock is held.
        if unsafe { wanted.is(irp) } {
            return irp;
        }
        // SAFETY: the list is whole.
        link = unsafe { (*link).Flink };
    }
    ptr::null_mut()
}

/// Asks an IRP something.
///
/// # Safety
///
/// The IRP is in a queue whose lock is held, or about to be put there.
unsafe fn with_irp<R>(irp: PIRP, ask: impl FnOnce(&IrpRef) -> R) -> R {
    // SAFETY: kernel queues hold IRPs, not null.
    let raw = unsafe { NonNull::new_unchecked(irp) };
    // SAFETY: the claim is the queue's, or the inserter's; this value is forgotten again.
    let irp = core::mem::ManuallyDrop::new(unsafe { PendedIrp::from_raw(raw) });
    ask(&irp)
}

/// IRQL: <= DISPATCH_LEVEL.
unsafe extern "C" fn acquire_lock<C>(csq: PIO_CSQ, irql: PKIRQL) {
    // SAFETY: called for this queue.
    let before = unsafe { queue_of::<C>(csq) }.acquire();
    // SAFETY: the kernel passes a place for it.
    unsafe { irql.write(before) };
}

/// IRQL: DISPATCH_LEVEL.
unsafe extern "C" fn release_lock<C>(csq: PIO_CSQ, irql: KIRQL) {
    // SAFETY: called for this queue.
    unsafe { queue_of::<C>(csq) }.release(irql);
}

/// IRQL: <= DISPATCH_LEVEL.
unsafe extern "C" fn complete_cancelled<C: QueuedContext>(_: PIO_CSQ, irp: PIRP) {
    // SAFETY: kernel queues hold IRPs, not null.
    let irp = unsafe { NonNull::new_unchecked(irp) };
    // SAFETY: the kernel has removed the IRP from the queue and hands it over.
    let (irp, context) = unsafe { take::<C>(irp) };
    context.cancelled(irp);
}
