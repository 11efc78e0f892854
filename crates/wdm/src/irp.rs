//! IRPs ("Handling IRPs").
//!
//! An [`Irp`] is the one that a dispatch routine was called with. It is completed, pended or passed down exactly once:
//! each of these consumes it and returns the [`Disposition`] that the dispatch routine must return, and nothing else
//! makes one. A [`PendedIrp`] is one that outlives its dispatch routine. What drops one of them undisposed completes it
//! with `UNSUCCESSFUL`, so that it is never lost.

use core::marker::PhantomData;
use core::mem;
use core::ops::Deref;
use core::ptr::NonNull;

use wdk_sys::{
    _EVENT_TYPE, _KWAIT_REASON, DEVICE_OBJECT, IO_NO_INCREMENT, IO_STACK_LOCATION, IRP, KEVENT, NTSTATUS,
    PDEVICE_OBJECT, PIRP, PVOID, SL_INVOKE_ON_CANCEL, SL_INVOKE_ON_ERROR, SL_INVOKE_ON_SUCCESS, SL_PENDING_RETURNED,
    STATUS_MORE_PROCESSING_REQUIRED, ntddk,
};

use crate::device::LowerDevice;
use crate::imports;
use crate::irql::Passive;
use crate::kernel::{KERNEL_MODE, Kernel, NO, byte};
use crate::pool::{PoolBox, Tag};
use crate::status::NtStatus;

mod buffers;
pub(crate) mod driver_words;
mod parameters;

pub use buffers::DirectBuffer;
pub use parameters::{
    Capabilities, DeviceControl, DevicePowerState, Direction, FileId, Pnp, Power, SystemPowerState, Transfer, Usage,
};

/// What a dispatch routine did with its IRP: the value it returns. `'a` ties it to that IRP.
#[must_use = "a dispatch routine returns it"]
pub struct Disposition<'a> {
    status: NTSTATUS,
    irp: PhantomData<fn(&'a ()) -> &'a ()>,
}

impl Disposition<'_> {
    /// The status for the I/O manager.
    pub(crate) const fn into_raw(self) -> NTSTATUS {
        self.status
    }
}

/// What both kinds of IRP in our hands have: their parameters, buffers and status.
pub struct IrpRef {
    raw: NonNull<IRP>,
}

/// An IRP in the hands of the dispatch routine that was called with it.
#[must_use = "an IRP is completed, pended or passed down"]
pub struct Irp<'a> {
    inner: IrpRef,
    brand: PhantomData<fn(&'a ()) -> &'a ()>,
}

/// An IRP that was marked pending and is ours until it is completed or passed down.
#[must_use = "an IRP is completed or passed down"]
pub struct PendedIrp {
    inner: IrpRef,
}

#[expect(clippy::non_send_fields_in_send_ty, reason = "a pended IRP belongs to no thread")]
// SAFETY: a pended IRP is reached through this value only, and may be completed by any thread.
unsafe impl Send for PendedIrp {}

impl IrpRef {
    /// The IRP for kernel functions.
    pub(crate) const fn as_ptr(&self) -> PIRP {
        self.raw.as_ptr()
    }

    /// The same IRP again, for a value that is about to be forgotten.
    const fn again(&self) -> Self {
        Self { raw: self.raw }
    }

    /// Our stack location ("`IoGetCurrentIrpStackLocation` function").
    pub(crate) fn stack(&self) -> NonNull<IO_STACK_LOCATION> {
        // SAFETY: the IRP is ours; the address of a member of a live IRP.
        let place =
            unsafe { &raw const (*self.as_ptr()).Tail.Overlay.__bindgen_anon_2.__bindgen_anon_1.CurrentStackLocation };
        // SAFETY: the I/O manager sets the member before it calls a driver.
        let stack = unsafe { place.read() };
        // SAFETY: an IRP that reached a driver has a current stack location.
        unsafe { NonNull::new_unchecked(stack) }
    }

    /// The status that it holds now: a lower driver's, once that has completed it.
    ///
    /// IRQL: any.
    #[must_use]
    pub fn status(&self) -> NtStatus {
        // SAFETY: the IRP is ours; both members of the union are plain data.
        let place = unsafe { &raw const (*self.as_ptr()).IoStatus.__bindgen_anon_1.Status };
        // SAFETY: the place is inside a live IRP.
        NtStatus::new(unsafe { place.read() })
    }

    /// The information that it holds now.
    ///
    /// IRQL: any.
    #[must_use]
    pub fn information(&self) -> usize {
        // SAFETY: the IRP is ours.
        let information = unsafe { (*self.as_ptr()).IoStatus.Information };
        usize::try_from(information).unwrap_or(usize::MAX)
    }

    /// Sets the status that lower drivers see, or that the IRP will be completed with.
    ///
    /// IRQL: any.
    pub fn set_status(&self, status: NtStatus) {
        // SAFETY: the IRP is ours.
        let place = unsafe { &raw mut (*self.as_ptr()).IoStatus.__bindgen_anon_1.Status };
        // SAFETY: the place is inside a live IRP.
        unsafe { place.write(status.raw()) };
    }

    /// Sets the information that goes with the status.
    ///
    /// IRQL: any.
    pub fn set_information(&self, information: usize) {
        // SAFETY: the IRP is ours.
        unsafe { (*self.as_ptr()).IoStatus.Information = information as u64 };
    }

    /// Completes it ("`IofCompleteRequest` function"); it is gone afterwards.
    fn complete(self, status: NtStatus, information: usize) {
        self.set_status(status);
        self.set_information(information);
        self.complete_as_it_is();
    }

    fn complete_as_it_is(self) {
        // SAFETY: the IRP is ours, no cancel routine is set, and the callers give it up with this call.
        unsafe { imports::IofCompleteRequest(self.as_ptr(), byte(IO_NO_INCREMENT).cast_signed()) };
    }

    /// Marks it pending ("`IoMarkIrpPending` function").
    fn mark_pending(&self) {
        let stack = self.stack();
        // SAFETY: our own stack location of an IRP that is ours.
        unsafe { (*stack.as_ptr()).Control |= byte(SL_PENDING_RETURNED) };
    }

    /// The stack location of the next lower driver.
    fn next_stack(&self) -> NonNull<IO_STACK_LOCATION> {
        // SAFETY: an IRP that reached a driver with others below it has a location for each of them, just below ours.
        unsafe { self.stack().sub(1) }
    }

    /// Gives the next lower driver our stack location ("`IoSkipCurrentIrpStackLocation` function").
    fn skip_stack(&self) {
        // SAFETY: the location above ours is the end of the array at most.
        let above = unsafe { self.stack().add(1) };
        // SAFETY: the address of a member of an IRP that is ours.
        let location = unsafe { &raw mut (*self.as_ptr()).CurrentLocation };
        // SAFETY: as above.
        let number = unsafe { location.read() };
        // SAFETY: as above; the call of the lower driver undoes this move.
        unsafe { location.write(number.wrapping_add(1)) };
        // SAFETY: the IRP is ours.
        let place =
            unsafe { &raw mut (*self.as_ptr()).Tail.Overlay.__bindgen_anon_2.__bindgen_anon_1.CurrentStackLocation };
        // SAFETY: as above.
        unsafe { place.write(above.as_ptr()) };
    }

    /// Copies our parameters to the next lower driver's location and asks to be called when it is done
    /// ("`IoCopyCurrentIrpStackLocationToNext` function", "`IoSetCompletionRoutine` function").
    fn copy_stack(&self, routine: CompletionRoutine, context: PVOID) {
        let (ours, next) = (self.stack(), self.next_stack());
        // SAFETY: both locations belong to the IRP and do not overlap.
        unsafe { next.copy_from_nonoverlapping(ours, 1) };
        // SAFETY: the location is ours to fill until the lower driver is called.
        let next = unsafe { &mut *next.as_ptr() };
        next.CompletionRoutine = Some(routine);
        next.Context = context;
        next.Control = byte(SL_INVOKE_ON_SUCCESS | SL_INVOKE_ON_ERROR | SL_INVOKE_ON_CANCEL);
    }

    /// Calls the next lower driver ("`IofCallDriver` function"); the IRP is that driver's afterwards.
    fn call(&self, lower: &LowerDevice) -> NTSTATUS {
        // SAFETY: the IRP is ours with the next stack location prepared, and the device is attached below ours.
        unsafe { ntddk::IofCallDriver(lower.as_ptr(), self.as_ptr()) }
    }
}

type CompletionRoutine = unsafe extern "C" fn(PDEVICE_OBJECT, PIRP, PVOID) -> NTSTATUS;

impl<'a> Irp<'a> {
    /// The IRP that a dispatch routine was called with.
    ///
    /// # Safety
    ///
    /// The IRP was handed to the calling dispatch routine, this is the only call for it, and the routine returns the
    /// [`Disposition`] to the I/O manager.
    pub(crate) const unsafe fn from_raw(raw: NonNull<IRP>) -> Self {
        Self { inner: IrpRef { raw }, brand: PhantomData }
    }

    const fn into_inner(self) -> IrpRef {
        let inner = self.inner.again();
        mem::forget(self);
        inner
    }

    const fn disposition(status: NTSTATUS) -> Disposition<'a> {
        Disposition { status, irp: PhantomData }
    }

    /// Completes it with `status` and no information ("Completing IRPs").
    ///
    /// IRQL: <= DISPATCH_LEVEL.
    pub fn complete(self, status: NtStatus) -> Disposition<'a> {
        self.complete_with(status, 0)
    }

    /// Completes it with `status` and `information`, for a transfer the number of bytes.
    ///
    /// IRQL: <= DISPATCH_LEVEL.
    pub fn complete_with(self, status: NtStatus, information: usize) -> Disposition<'a> {
        self.into_inner().complete(status, information);
        Self::disposition(status.raw())
    }

    /// Completes it with the status and information that it holds, as one that lower drivers have completed before.
    ///
    /// IRQL: <= DISPATCH_LEVEL.
    pub fn complete_as_it_is(self) -> Disposition<'a> {
        let status = self.status();
        self.into_inner().complete_as_it_is();
        Self::disposition(status.raw())
    }

    /// Marks it pending; it is completed later ("`IoMarkIrpPending` function").
    ///
    /// IRQL: <= DISPATCH_LEVEL.
    pub fn pend(self) -> (PendedIrp, Disposition<'a>) {
        let inner = self.into_inner();
        inner.mark_pending();
        (PendedIrp { inner }, Self::pending())
    }

    /// What the dispatch routine of a pended IRP returns.
    pub(crate) const fn pending() -> Disposition<'a> {
        Self::disposition(wdk_sys::STATUS_PENDING)
    }

    /// Passes it to the next lower driver, untouched ("Passing IRPs down the Driver Stack").
    ///
    /// IRQL: <= DISPATCH_LEVEL; for PnP and pageable power IRPs PASSIVE_LEVEL.
    pub fn pass_down(self, lower: &LowerDevice) -> Disposition<'a> {
        let inner = self.into_inner();
        inner.skip_stack();
        Self::disposition(inner.call(lower))
    }

    /// Passes it down and waits until the lower drivers have completed it; then it is ours again ("Using IRP Completion
    /// Routines"). Returns what they answered. Needs no memory, so that what must not fail can be built on it.
    ///
    /// IRQL: PASSIVE_LEVEL.
    #[inline(never)]
    pub fn send_and_wait(&mut self, lower: &LowerDevice, _: Passive<'_>) -> NtStatus {
        let done = Kernel::<KEVENT>::zeroed();
        // SAFETY: the event stays in this frame until the wait below is over; nothing uses it before.
        unsafe { ntddk::KeInitializeEvent(done.get(), _EVENT_TYPE::NotificationEvent, NO) };
        self.inner.copy_stack(signal_completion, done.get().cast());
        // Waits whatever the lower driver returned: the completion routine runs in every case, and then nobody but us
        // holds the IRP.
        self.inner.call(lower);
        // SAFETY: PASSIVE_LEVEL by the token. Waiting in kernel mode keeps the stack resident, and it ends only once the
        // completion routine has signaled.
        let _ = unsafe {
            ntddk::KeWaitForSingleObject(
                done.get().cast(),
                _KWAIT_REASON::Executive,
                KERNEL_MODE,
                NO,
                core::ptr::null_mut(),
            )
        };
        self.status()
    }

    /// Passes it down; `then` gets it back when the lower drivers have completed it ("Using IRP Completion Routines").
    ///
    /// IRQL: <= DISPATCH_LEVEL, at which `then` runs too.
    ///
    /// # Errors
    ///
    /// The IRP and the context where there is no memory; it was not passed down then.
    pub fn pass_down_then<C: Send + 'static>(
        self,
        lower: &LowerDevice,
        tag: Tag,
        context: C,
        then: fn(PendedIrp, C),
    ) -> core::result::Result<Disposition<'a>, (Self, C)> {
        let continuation = match PoolBox::new_or_back(tag, Continuation { tag, context, then }) {
            Ok(continuation) => continuation,
            Err(continuation) => return Err((self, continuation.context)),
        };
        let inner = self.into_inner();
        inner.mark_pending();
        inner.copy_stack(continue_completion::<C>, continuation.into_raw().cast());
        inner.call(lower);
        Ok(Self::pending())
    }
}

/// What happens when lower drivers are done with an IRP.
struct Continuation<C> {
    tag: Tag,
    context: C,
    then: fn(PendedIrp, C),
}

/// IRQL: <= DISPATCH_LEVEL.
unsafe extern "C" fn signal_completion(_: PDEVICE_OBJECT, _: PIRP, context: PVOID) -> NTSTATUS {
    // SAFETY: `send_and_wait` passes its event and keeps it until it is signaled; without Wait any IRQL here will do.
    unsafe { ntddk::KeSetEvent(context.cast(), 0, NO) };
    STATUS_MORE_PROCESSING_REQUIRED
}

/// IRQL: <= DISPATCH_LEVEL.
unsafe extern "C" fn continue_completion<C: Send>(_: *mut DEVICE_OBJECT, irp: PIRP, context: PVOID) -> NTSTATUS {
    let place = context.cast::<Continuation<C>>();
    // SAFETY: `pass_down_then` passes a continuation that it gave up.
    let tag = unsafe { (*place).tag };
    // SAFETY: as above; neither is null.
    let place = unsafe { NonNull::new_unchecked(place) };
    // SAFETY: as above, and a completion routine runs once.
    let continuation = unsafe { PoolBox::from_raw(tag, place) }.into_inner();
    // SAFETY: the I/O manager passes an IRP, not null.
    let raw = unsafe { NonNull::new_unchecked(irp) };
    // It was marked pending on its way down; it is ours again until `then` disposes of it.
    (continuation.then)(PendedIrp { inner: IrpRef { raw } }, continuation.context);
    STATUS_MORE_PROCESSING_REQUIRED
}

impl PendedIrp {
    /// An IRP that a kernel queue gave back.
    ///
    /// # Safety
    ///
    /// The IRP was marked pending, and the caller hands over the only claim to it.
    pub(crate) const unsafe fn from_raw(raw: NonNull<IRP>) -> Self {
        Self { inner: IrpRef { raw } }
    }

    /// Gives up the claim; [`PendedIrp::from_raw`] takes it again.
    pub(crate) const fn into_raw(self) -> PIRP {
        self.into_inner().as_ptr()
    }

    const fn into_inner(self) -> IrpRef {
        let inner = self.inner.again();
        mem::forget(self);
        inner
    }

    /// Completes it with `status` and no information ("Completing IRPs").
    ///
    /// IRQL: <= DISPATCH_LEVEL.
    pub fn complete(self, status: NtStatus) {
        self.complete_with(status, 0);
    }

    /// Completes it with `status` and `information`, for a transfer the number of bytes.
    ///
    /// IRQL: <= DISPATCH_LEVEL.
    pub fn complete_with(self, status: NtStatus, information: usize) {
        self.into_inner().complete(status, information);
    }

    /// Completes it with the status and information that it holds, as one that lower drivers have completed before.
    ///
    /// IRQL: <= DISPATCH_LEVEL.
    pub fn complete_as_it_is(self) {
        self.into_inner().complete_as_it_is();
    }

    /// Passes it to the next lower driver ("Passing IRPs down the Driver Stack").
    ///
    /// IRQL: <= DISPATCH_LEVEL; for PnP and pageable power IRPs PASSIVE_LEVEL.
    pub fn pass_down(self, lower: &LowerDevice) {
        let inner = self.into_inner();
        inner.skip_stack();
        inner.call(lower);
    }
}

impl Deref for Irp<'_> {
    type Target = IrpRef;

    fn deref(&self) -> &IrpRef {
        &self.inner
    }
}

impl Deref for PendedIrp {
    type Target = IrpRef;

    fn deref(&self) -> &IrpRef {
        &self.inner
    }
}

impl Drop for Irp<'_> {
    fn drop(&mut self) {
        self.inner.again().complete(NtStatus::UNSUCCESSFUL, 0);
    }
}

impl Drop for PendedIrp {
    fn drop(&mut self) {
        self.inner.again().complete(NtStatus::UNSUCCESSFUL, 0);
    }
}
