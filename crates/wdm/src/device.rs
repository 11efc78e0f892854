//! Function devices and their dispatch routines ("Device Objects and Device Stacks", "Writing Dispatch Routines").
//!
//! A driver says what its device does by [`Function`]. The dispatch routines here take the remove lock around each
//! call, and carry out the removal: nothing reaches a `Function` after it is dropped.

use core::ffi::c_void;
use core::marker::PhantomData;
use core::mem;
use core::ops::Deref;
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicPtr, Ordering};

use wdk_sys::{
    DEVICE_OBJECT, DO_DEVICE_INITIALIZING, DO_DIRECT_IO, DO_POWER_PAGABLE, FILE_DEVICE_SECURE_OPEN,
    FILE_DEVICE_UNKNOWN, IRP_MJ_CLEANUP, IRP_MJ_CLOSE, IRP_MJ_CREATE, IRP_MJ_DEVICE_CONTROL, IRP_MJ_PNP, IRP_MJ_POWER,
    IRP_MJ_READ, IRP_MJ_SYSTEM_CONTROL, IRP_MJ_WRITE, IRP_MN_REMOVE_DEVICE, NTSTATUS, PDEVICE_OBJECT, PIRP, ntddk,
};

use crate::driver::DriverObject;
use crate::irp::{DeviceControl, Disposition, Irp, Transfer};
use crate::irql::Passive;
use crate::kernel::NO;
use crate::pool::{PoolBox, Tag};
use crate::remove_lock::RemoveLock;
use crate::rundown::Rundown;
use crate::status::{NtStatus, Result, check};

mod interface;
mod pdo;

pub use interface::Interface;
pub use pdo::{DEVICE_DHP_REBALANCE_POLICY, DEVICE_NUMA_NODE, Pdo};

/// The next lower device of a stack.
#[repr(transparent)]
pub struct LowerDevice(NonNull<DEVICE_OBJECT>);

// SAFETY: the kernel's functions on a device object may be called from any thread.
unsafe impl Send for LowerDevice {}
// SAFETY: as above.
unsafe impl Sync for LowerDevice {}

impl LowerDevice {
    /// The device object for kernel functions.
    pub(crate) const fn as_ptr(&self) -> PDEVICE_OBJECT {
        self.0.as_ptr()
    }
}

/// What a function device does: its dispatch routines.
///
/// The remove lock is held while any of them runs, or for reading, writing and controlling a [`Pass`]. What goes on after it returns
/// holds a [`DeviceRef`], or the pass. A routine that a device does not need can be left out: everyone whom the device's security
/// lets in may open it, it reads, writes and controls nothing, and leaves power to the drivers below.
pub trait Function: Send + Sync + Sized + 'static {
    /// `IRP_MJ_CREATE`. IRQL: PASSIVE_LEVEL.
    fn create<'a>(_: &Device<Self>, irp: Irp<'a>, _: Passive<'_>) -> Disposition<'a> {
        irp.complete(NtStatus::SUCCESS)
    }

    /// `IRP_MJ_CLEANUP`: the last handle is closed; what it has pending is to be cancelled. IRQL: PASSIVE_LEVEL.
    fn cleanup<'a>(device: &Device<Self>, irp: Irp<'a>, passive: Passive<'_>) -> Disposition<'a>;

    /// `IRP_MJ_CLOSE`. IRQL: PASSIVE_LEVEL.
    fn close<'a>(_: &Device<Self>, irp: Irp<'a>, _: Passive<'_>) -> Disposition<'a> {
        irp.complete(NtStatus::SUCCESS)
    }

    /// `IRP_MJ_READ` and `IRP_MJ_WRITE`, direct I/O. IRQL: <= DISPATCH_LEVEL.
    fn transfer(_: IoDevice<Self>, irp: Irp<'_>, _: Transfer) -> Disposition<'_> {
        irp.complete(NtStatus::INVALID_DEVICE_REQUEST)
    }

    /// `IRP_MJ_DEVICE_CONTROL`. IRQL: <= DISPATCH_LEVEL.
    fn device_control(_: IoDevice<Self>, irp: Irp<'_>, _: DeviceControl) -> Disposition<'_> {
        irp.complete(NtStatus::INVALID_DEVICE_REQUEST)
    }

    /// `IRP_MJ_PNP` but for `IRP_MN_REMOVE_DEVICE`. IRQL: PASSIVE_LEVEL.
    fn pnp<'a>(device: &Device<Self>, irp: Irp<'a>, passive: Passive<'_>) -> Disposition<'a>;

    /// `IRP_MJ_POWER`; the device is marked `DO_POWER_PAGABLE`. IRQL: PASSIVE_LEVEL.
    fn power<'a>(device: &Device<Self>, irp: Irp<'a>, _: Passive<'_>) -> Disposition<'a> {
        irp.pass_down(device.lower())
    }

    /// `IRP_MJ_SYSTEM_CONTROL` (WMI). IRQL: PASSIVE_LEVEL.
    fn system_control<'a>(device: &Device<Self>, irp: Irp<'a>, _: Passive<'_>) -> Disposition<'a> {
        irp.pass_down(device.lower())
    }

    /// `IRP_MN_REMOVE_DEVICE`: ends everything that holds a [`DeviceRef`], requests too. Then the remove lock is waited
    /// for, `Self` is dropped, and the IRP is passed down ("Handling an `IRP_MN_REMOVE_DEVICE` Request"). IRQL:
    /// PASSIVE_LEVEL.
    fn remove(device: &Device<Self>, passive: Passive<'_>);
}

/// What lies in a device extension.
#[repr(C)]
struct Extension<F> {
    lock: RemoveLock,
    /// Counts requests in flight.
    in_flight: Rundown,
    pdo: Pdo,
    lower: LowerDevice,
    tag: Tag,
    /// Null until [`NewDevice::finish`], and again once the device is removed.
    function: AtomicPtr<F>,
}

/// A function device as its dispatch routines see it: its [`Function`] and its place in the stack.
#[repr(transparent)]
pub struct Device<F> {
    object: NonNull<DEVICE_OBJECT>,
    function: PhantomData<F>,
}

// SAFETY: a device gives out nothing but `&F` and handles that any thread may use.
unsafe impl<F: Send + Sync> Send for Device<F> {}
// SAFETY: as above.
unsafe impl<F: Send + Sync> Sync for Device<F> {}

impl<F> Device<F> {
    const fn extension(&self) -> &Extension<F> {
        // SAFETY: the device object is one of ours and lives.
        let extension = unsafe { (*self.object.as_ptr()).DeviceExtension };
        // SAFETY: `NewDevice::create` filled the extension before it made a `Device`.
        unsafe { &*extension.cast::<Extension<F>>() }
    }

    /// The next lower device.
    ///
    /// IRQL: any.
    #[must_use]
    pub const fn lower(&self) -> &LowerDevice {
        &self.extension().lower
    }

    /// The physical device object of the stack.
    ///
    /// IRQL: any.
    #[must_use]
    pub const fn pdo(&self) -> &Pdo {
        &self.extension().pdo
    }

    /// Our own device object for kernel functions.
    pub(crate) const fn as_ptr(&self) -> PDEVICE_OBJECT {
        self.object.as_ptr()
    }

    /// Keeps the device from being removed, for something that goes on after its dispatch routine returns.
    ///
    /// IRQL: <= DISPATCH_LEVEL.
    ///
    /// # Errors
    ///
    /// `DELETE_PENDING` once the device is being removed.
    pub fn hold(&self) -> Result<DeviceRef<F>> {
        self.extension().lock.acquire(self.object.as_ptr().cast())?;
        Ok(DeviceRef(Self { object: self.object, function: PhantomData }))
    }
}

impl<F: Function> Device<F> {
    /// Counts one request in flight; none between [`Device::drain`] and [`Device::readmit`].
    ///
    /// IRQL: <= DISPATCH_LEVEL.
    #[must_use]
    pub fn pass(&self) -> Option<Pass<F>> {
        let extension = self.extension();
        if !extension.in_flight.acquire() {
            return None;
        }
        let pass = Pass(Self { object: self.object, function: PhantomData });
        // Null: the device is not finished, or it is gone, and what was acquired counts for another device by now.
        (!extension.function.load(Ordering::Acquire).is_null()).then_some(pass)
    }

    /// Gives out no pass from now on, and waits until none is left; nothing to do where that has been done.
    ///
    /// IRQL: PASSIVE_LEVEL.
    ///
    /// # Errors
    ///
    /// `DEVICE_BUSY` while another thread is inside this function or [`Device::readmit`].
    pub fn drain(&self, passive: Passive<'_>) -> Result {
        self.extension().in_flight.wait(passive)
    }

    /// Gives out passes again after [`Device::drain`]; nothing to do where they are given out.
    ///
    /// IRQL: PASSIVE_LEVEL.
    ///
    /// # Errors
    ///
    /// `DEVICE_BUSY` while another thread is inside this function or [`Device::drain`].
    pub fn readmit(&self, passive: Passive<'_>) -> Result {
        self.extension().in_flight.reinitialize(passive)
    }
}

impl<F: Function> Deref for Device<F> {
    type Target = F;

    fn deref(&self) -> &F {
        // SAFETY: dispatch routines and `DeviceRef` hold the remove lock, others a pass, and it is set between `finish` and
        // the end of both. What it points to is seen: who comes in loads it with `Acquire` before there is a `Device` to use.
        unsafe { &*self.extension().function.load(Ordering::Relaxed) }
    }
}

/// A [`Device`] that is not removed while this lives: it holds the remove lock.
#[repr(transparent)]
pub struct DeviceRef<F>(Device<F>);

impl<F> Deref for DeviceRef<F> {
    type Target = Device<F>;

    fn deref(&self) -> &Device<F> {
        &self.0
    }
}

impl<F> Drop for DeviceRef<F> {
    /// IRQL: <= DISPATCH_LEVEL.
    fn drop(&mut self) {
        // SAFETY: `hold` took the lock with this tag.
        unsafe { self.0.extension().lock.release(self.0.object.as_ptr().cast()) };
    }
}

/// A request in flight: [`Device::drain`] and the removal of the device wait until this is dropped. Taking and dropping it writes to no
/// cache line that another processor writes to.
#[repr(transparent)]
pub struct Pass<F>(Device<F>);

impl<F> Deref for Pass<F> {
    type Target = Device<F>;

    fn deref(&self) -> &Device<F> {
        &self.0
    }
}

impl<F> Drop for Pass<F> {
    /// IRQL: <= DISPATCH_LEVEL.
    fn drop(&mut self) {
        // SAFETY: `Device::pass` has acquired it for this value.
        unsafe { self.0.extension().in_flight.release() };
    }
}

/// The device as the routines for transfers and control codes see it.
pub enum IoDevice<F> {
    /// It takes requests, and this one is in flight until the pass is dropped.
    Open(Pass<F>),
    /// [`Device::drain`] was called and not yet [`Device::readmit`].
    Drained(DeviceRef<F>),
}

impl<F> Deref for IoDevice<F> {
    type Target = Device<F>;

    fn deref(&self) -> &Device<F> {
        match self {
            Self::Open(pass) => pass,
            Self::Drained(device) => device,
        }
    }
}

/// A device that the PnP manager asks the driver to serve; good for the call of AddDevice.
pub struct FoundDevice<'a, F> {
    driver: &'a DriverObject,
    pdo: Pdo,
    tag: Tag,
    function: PhantomData<F>,
}

impl<'a, F: Function> FoundDevice<'a, F> {
    /// The device that AddDevice is called for.
    pub(crate) const fn new(driver: &'a DriverObject, pdo: Pdo, tag: Tag) -> Self {
        Self { driver, pdo, tag, function: PhantomData }
    }

    /// Creates a function device and attaches it to the stack.
    ///
    /// IRQL: PASSIVE_LEVEL.
    ///
    /// # Errors
    ///
    /// What `IoCreateDevice` or `IoAttachDeviceToDeviceStackSafe` returns.
    pub fn attach(self, passive: Passive<'_>) -> Result<NewDevice<F>> {
        NewDevice::create(self.driver, self.pdo, self.tag, passive)
    }
}

/// A function device that is attached to its stack and gets no requests yet. Dropping it undoes both.
pub struct NewDevice<F: Function> {
    device: Device<F>,
}

impl<F: Function> NewDevice<F> {
    /// Creates a device object and attaches it to the stack of `pdo` ("Writing an `AddDevice` Routine").
    ///
    /// # Errors
    ///
    /// What `IoCreateDevice` or `IoAttachDeviceToDeviceStackSafe` returns.
    fn create(driver: &DriverObject, pdo: Pdo, tag: Tag, passive: Passive<'_>) -> Result<Self> {
        let object = create_object(driver, size_of::<Extension<F>>())?;
        let in_flight = Rundown::new(tag, passive).inspect_err(|_| delete(object))?;
        let lower = attach(object, &pdo).inspect_err(|_| delete(object))?;
        // SAFETY: the device object is new and ours.
        let extension = unsafe { (*object.as_ptr()).DeviceExtension }.cast::<Extension<F>>();
        // SAFETY: the extension is as large as asked for, and nothing of ours has run on this device yet.
        let lock = unsafe { &raw mut (*extension).lock };
        let function = AtomicPtr::new(ptr::null_mut());
        // SAFETY: as above; the lock is made in its place next.
        unsafe { extension.write(Extension { lock: RemoveLock::zeroed(), in_flight, pdo, lower, tag, function }) };
        // SAFETY: a device extension is nonpaged and does not move.
        unsafe { RemoveLock::initialize(lock, tag.raw(), passive) };
        // The flags are read when the first IRP comes, after AddDevice.
        // SAFETY: the device object is new and ours.
        unsafe { (*object.as_ptr()).Flags |= DO_DIRECT_IO | DO_POWER_PAGABLE };
        Ok(Self { device: Device { object, function: PhantomData } })
    }

    /// The next lower device.
    ///
    /// IRQL: any.
    #[must_use]
    pub const fn lower(&self) -> &LowerDevice {
        self.device.lower()
    }

    /// The physical device object of the stack.
    ///
    /// IRQL: any.
    #[must_use]
    pub const fn pdo(&self) -> &Pdo {
        self.device.pdo()
    }

    /// Our own device object for kernel functions.
    pub(crate) const fn as_ptr(&self) -> PDEVICE_OBJECT {
        self.device.as_ptr()
    }

    /// Gives the device its function; from here on it gets requests.
    ///
    /// IRQL: PASSIVE_LEVEL.
    ///
    /// # Errors
    ///
    /// `INSUFFICIENT_RESOURCES` where there is no memory; the function is dropped and the device deleted.
    pub fn finish(self, function: F, _: Passive<'_>) -> Result {
        let extension = self.device.extension();
        let function = PoolBox::new(extension.tag, function)?;
        extension.function.store(function.into_raw(), Ordering::Release);
        // SAFETY: the device object is ours.
        unsafe { (*self.as_ptr()).Flags &= !DO_DEVICE_INITIALIZING };
        mem::forget(self);
        Ok(())
    }
}

impl<F: Function> Drop for NewDevice<F> {
    /// IRQL: PASSIVE_LEVEL.
    fn drop(&mut self) {
        // SAFETY: devices are made in AddDevice, at PASSIVE_LEVEL.
        self.device.extension().in_flight.retire(unsafe { Passive::assume() });
        detach_and_delete(&self.device);
    }
}

fn create_object(driver: &DriverObject, extension: usize) -> Result<NonNull<DEVICE_OBJECT>> {
    let extension = u32::try_from(extension).map_err(|_| NtStatus::INVALID_PARAMETER)?;
    let mut object = ptr::null_mut();
    // SAFETY: called from AddDevice at PASSIVE_LEVEL with our driver object; the device has no name, as its PDO has
    // one.
    check(unsafe {
        ntddk::IoCreateDevice(
            driver.as_ptr(),
            extension,
            ptr::null_mut(),
            FILE_DEVICE_UNKNOWN,
            FILE_DEVICE_SECURE_OPEN,
            NO,
            &raw mut object,
        )
    })?;
    NonNull::new(object).ok_or(NtStatus::INSUFFICIENT_RESOURCES)
}

fn attach(object: NonNull<DEVICE_OBJECT>, pdo: &Pdo) -> Result<LowerDevice> {
    let mut lower = ptr::null_mut();
    // SAFETY: both device objects live; `lower` outlives the call.
    check(unsafe { ntddk::IoAttachDeviceToDeviceStackSafe(object.as_ptr(), pdo.as_ptr(), &raw mut lower) })?;
    NonNull::new(lower).map(LowerDevice).ok_or(NtStatus::NO_SUCH_DEVICE)
}

fn detach_and_delete<F>(device: &Device<F>) {
    // SAFETY: our device is attached to this one, and the caller detaches it once, at PASSIVE_LEVEL.
    unsafe { ntddk::IoDetachDevice(device.lower().as_ptr()) };
    delete(device.object);
}

fn delete(object: NonNull<DEVICE_OBJECT>) {
    // SAFETY: the device is ours and detached; the caller does not use it again.
    unsafe { ntddk::IoDeleteDevice(object.as_ptr()) };
}

/// The dispatch routine of every major function that the driver handles.
///
/// # Safety
///
/// Called by the I/O manager with a device of this driver and an IRP for it.
pub unsafe extern "C" fn dispatch<F: Function>(object: PDEVICE_OBJECT, irp: PIRP) -> NTSTATUS {
    // SAFETY: the I/O manager passes a device object, not null.
    let object = unsafe { NonNull::new_unchecked(object) };
    let device = Device::<F> { object, function: PhantomData };
    // SAFETY: the I/O manager passes an IRP, not null.
    let raw = unsafe { NonNull::new_unchecked(irp) };
    // SAFETY: the IRP was handed to this routine, which returns the disposition.
    let irp = unsafe { Irp::from_raw(raw) };
    guarded(&device, irp, raw.as_ptr().cast()).into_raw()
}

/// The dispatch routine for reading, writing and controlling, the functions that are called often.
///
/// # Safety
///
/// As for [`dispatch`].
pub unsafe extern "C" fn dispatch_io<F: Function>(object: PDEVICE_OBJECT, irp: PIRP) -> NTSTATUS {
    // SAFETY: the I/O manager passes a device object, not null.
    let device = Device::<F> { object: unsafe { NonNull::new_unchecked(object) }, function: PhantomData };
    // SAFETY: the I/O manager passes an IRP, not null.
    let raw = unsafe { NonNull::new_unchecked(irp) };
    // SAFETY: the IRP was handed to this routine, which returns the disposition.
    let irp = unsafe { Irp::from_raw(raw) };
    let entered = device.pass().map_or_else(|| hold_drained(&device), |pass| Ok(IoDevice::Open(pass)));
    match entered {
        Ok(device) => route_io(device, irp),
        Err(status) => irp.complete(status),
    }
    .into_raw()
}

#[cold]
#[inline(never)]
fn hold_drained<F: Function>(device: &Device<F>) -> Result<IoDevice<F>> {
    let held = device.hold()?;
    if device.extension().function.load(Ordering::Acquire).is_null() {
        return Err(NtStatus::DEVICE_NOT_READY);
    }
    Ok(IoDevice::Drained(held))
}

fn route_io<F: Function>(device: IoDevice<F>, irp: Irp<'_>) -> Disposition<'_> {
    if let Some(transfer) = irp.transfer() {
        return F::transfer(device, irp, transfer);
    }
    match irp.device_control() {
        Some(control) => F::device_control(device, irp, control),
        None => irp.complete(NtStatus::INVALID_DEVICE_REQUEST),
    }
}

/// Holds the remove lock around the routine for `irp`.
fn guarded<'a, F: Function>(device: &Device<F>, irp: Irp<'a>, tag: *mut c_void) -> Disposition<'a> {
    let extension = device.extension();
    if let Err(status) = extension.lock.acquire(tag) {
        return irp.complete(status);
    }
    if !extension.function.load(Ordering::Acquire).is_null() {
        if u32::from(irp.major()) == IRP_MJ_PNP && u32::from(irp.minor()) == IRP_MN_REMOVE_DEVICE {
            return remove(device, irp, tag);
        }
        let disposition = route(device, irp);
        // SAFETY: acquired above with this tag.
        unsafe { extension.lock.release(tag) };
        return disposition;
    }
    // SAFETY: acquired above with this tag.
    unsafe { extension.lock.release(tag) };
    irp.complete(NtStatus::DEVICE_NOT_READY)
}

fn route<'a, F: Function>(device: &Device<F>, irp: Irp<'a>) -> Disposition<'a> {
    // SAFETY: used for the functions that come at PASSIVE_LEVEL only ("Dispatch Routines and IRQLs"); power IRPs do, as
    // the device is marked DO_POWER_PAGABLE.
    let passive = unsafe { Passive::assume() };
    match u32::from(irp.major()) {
        IRP_MJ_CREATE => F::create(device, irp, passive),
        IRP_MJ_CLEANUP => {
            // Before the queues are looked through: what comes later is kept out of them.
            irp.mark_file_closed();
            F::cleanup(device, irp, passive)
        }
        IRP_MJ_CLOSE => F::close(device, irp, passive),
        IRP_MJ_PNP => F::pnp(device, irp, passive),
        IRP_MJ_POWER => F::power(device, irp, passive),
        IRP_MJ_SYSTEM_CONTROL => F::system_control(device, irp, passive),
        _ => irp.complete(NtStatus::INVALID_DEVICE_REQUEST),
    }
}

/// The major functions that [`dispatch`] routes.
pub(crate) const MAJOR_FUNCTIONS: [u32; 6] =
    [IRP_MJ_CREATE, IRP_MJ_CLEANUP, IRP_MJ_CLOSE, IRP_MJ_PNP, IRP_MJ_POWER, IRP_MJ_SYSTEM_CONTROL];

/// Those that [`dispatch_io`] routes.
pub(crate) const IO_FUNCTIONS: [u32; 3] = [IRP_MJ_READ, IRP_MJ_WRITE, IRP_MJ_DEVICE_CONTROL];

fn remove<'a, F: Function>(device: &Device<F>, irp: Irp<'a>, tag: *mut c_void) -> Disposition<'a> {
    // SAFETY: PnP IRPs come at PASSIVE_LEVEL.
    let passive = unsafe { Passive::assume() };
    F::remove(device, passive);
    let extension = device.extension();
    // SAFETY: acquired by the caller with this tag; the PnP manager removes a device once.
    unsafe { extension.lock.release_and_wait(tag, passive) };
    // Waits where `F::remove` did not.
    let drained = extension.in_flight.wait(passive);
    let function = extension.function.swap(ptr::null_mut(), Ordering::AcqRel);
    extension.in_flight.retire(passive);
    // Not where somebody with a pass drains, and so waits for itself: it still uses the function.
    if let (Some(function), Ok(())) = (NonNull::new(function), drained) {
        // SAFETY: `finish` gave it up with this tag; remove lock and passes have gone out to everyone, so nobody else uses it.
        drop(unsafe { PoolBox::from_raw(extension.tag, function) });
    }
    irp.set_status(NtStatus::SUCCESS);
    let disposition = irp.pass_down(device.lower());
    detach_and_delete(device);
    disposition
}
