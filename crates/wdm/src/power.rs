//! Device power ("Handling System Set-Power IRPs in a Device Power Policy Owner").

use core::ptr::NonNull;

use wdk_sys::{
    _POWER_STATE_TYPE, IRP_MN_SET_POWER, PDEVICE_OBJECT, PIO_STATUS_BLOCK, POWER_STATE, PVOID, STATUS_PENDING, UCHAR,
    ntddk,
};

use crate::device::{Device, Function};
use crate::irp::DevicePowerState;
use crate::kernel::byte;
use crate::pool::{PoolBox, Tag};
use crate::status::NtStatus;

/// What happens when a power IRP is done.
struct Continuation<C> {
    tag: Tag,
    context: C,
    then: fn(C, NtStatus),
}

impl<F: Function> Device<F> {
    /// Sends an IRP that sets the device's power state to the top of the stack; `then` gets its status when it is done
    /// ("`PoRequestPowerIrp` function").
    ///
    /// IRQL: <= DISPATCH_LEVEL, at which `then` runs too.
    ///
    /// # Errors
    ///
    /// A status and the context where it was not sent.
    pub fn request_power<C: Send + 'static>(
        &self,
        tag: Tag,
        state: DevicePowerState,
        context: C,
        then: fn(C, NtStatus),
    ) -> Result<(), (NtStatus, C)> {
        let continuation = match PoolBox::new_or_back(tag, Continuation { tag, context, then }) {
            Ok(continuation) => continuation.into_raw(),
            Err(continuation) => return Err((NtStatus::INSUFFICIENT_RESOURCES, continuation.context)),
        };
        let state = POWER_STATE { DeviceState: state.raw() };
        // SAFETY: the device lives; the continuation is the routine's from here on, unless nothing is sent.
        let status = unsafe {
            ntddk::PoRequestPowerIrp(
                self.pdo().as_ptr(),
                byte(IRP_MN_SET_POWER),
                state,
                Some(done::<C>),
                continuation.cast(),
                core::ptr::null_mut(),
            )
        };
        if status == STATUS_PENDING {
            return Ok(());
        }
        // SAFETY: nothing was sent, so the continuation is ours again.
        Err((NtStatus::new(status), unsafe { take(continuation) }.context))
    }

    /// Tells the power manager which state the device is in ("`PoSetPowerState` function").
    ///
    /// IRQL: <= DISPATCH_LEVEL.
    pub fn report_power(&self, state: DevicePowerState) {
        let state = POWER_STATE { DeviceState: state.raw() };
        // SAFETY: the device is ours and lives.
        unsafe { ntddk::PoSetPowerState(self.as_ptr(), _POWER_STATE_TYPE::DevicePowerState, state) };
    }
}

/// Takes a continuation back.
///
/// # Safety
///
/// `place` came from `PoolBox::into_raw`, and this is the only call since.
unsafe fn take<C>(place: *mut Continuation<C>) -> Continuation<C> {
    // SAFETY: the caller gives a live continuation.
    let tag = unsafe { (*place).tag };
    // SAFETY: it is not null.
    let place = unsafe { NonNull::new_unchecked(place) };
    // SAFETY: as the caller promises.
    unsafe { PoolBox::from_raw(tag, place) }.into_inner()
}

/// IRQL: <= DISPATCH_LEVEL.
unsafe extern "C" fn done<C>(_: PDEVICE_OBJECT, _: UCHAR, _: POWER_STATE, context: PVOID, status: PIO_STATUS_BLOCK) {
    // SAFETY: `request_power` gave it up, and the routine runs once.
    let continuation = unsafe { take(context.cast::<Continuation<C>>()) };
    // SAFETY: the power manager passes a block that lives for this call.
    let place = unsafe { &raw const (*status).__bindgen_anon_1.Status };
    // SAFETY: as above.
    let status = unsafe { place.read() };
    (continuation.then)(continuation.context, NtStatus::new(status));
}
