//! System threads ("Windows Kernel-Mode Process and Thread Manager", "`PsCreateSystemThread` function").

use core::ops::Deref;
use core::ptr;

use wdk_sys::{HANDLE, OBJ_KERNEL_HANDLE, OBJECT_ATTRIBUTES, PVOID, THREAD_ALL_ACCESS, ULONG, ntddk};

use crate::irql::Passive;
use crate::kernel::NO;
use crate::pool::{PoolBox, Tag};
use crate::status::{Result, check};

/// What a thread does.
pub trait ThreadRoutine: Send + Sync + 'static {
    /// The whole life of the thread. IRQL: PASSIVE_LEVEL.
    fn run(&self, passive: Passive<'_>);

    /// Makes `run` return soon. IRQL: PASSIVE_LEVEL.
    fn stop(&self);
}

/// A system thread. Dropping it stops it and waits for its end.
pub struct Thread<C: ThreadRoutine> {
    context: PoolBox<C>,
    handle: HANDLE,
}

// SAFETY: a kernel handle is good in every thread.
unsafe impl<C: ThreadRoutine> Send for Thread<C> {}
// SAFETY: as above.
unsafe impl<C: ThreadRoutine> Sync for Thread<C> {}

/// Attributes of an object whose handle belongs to the kernel ("`InitializeObjectAttributes` macro").
pub const fn kernel_attributes(name: *mut wdk_sys::UNICODE_STRING) -> OBJECT_ATTRIBUTES {
    const { assert!(size_of::<OBJECT_ATTRIBUTES>() == 48) };
    OBJECT_ATTRIBUTES {
        Length: 48,
        RootDirectory: ptr::null_mut(),
        ObjectName: name,
        Attributes: OBJ_KERNEL_HANDLE | wdk_sys::OBJ_CASE_INSENSITIVE,
        SecurityDescriptor: ptr::null_mut(),
        SecurityQualityOfService: ptr::null_mut(),
    }
}

impl<C: ThreadRoutine> Thread<C> {
    /// Starts a thread.
    ///
    /// IRQL: PASSIVE_LEVEL.
    ///
    /// # Errors
    ///
    /// `INSUFFICIENT_RESOURCES` where there is no memory, or what the kernel function returns.
    pub fn spawn(tag: Tag, context: C, _: Passive<'_>) -> Result<Self> {
        let context = PoolBox::new(tag, context)?;
        let mut handle = ptr::null_mut();
        let mut attributes = kernel_attributes(ptr::null_mut());
        // SAFETY: PASSIVE_LEVEL by the token; handle and attributes outlive the call, and the context the thread, as
        // `drop` waits.
        check(unsafe {
            ntddk::PsCreateSystemThread(
                &raw mut handle,
                ULONG::from(THREAD_ALL_ACCESS),
                &raw mut attributes,
                ptr::null_mut(),
                ptr::null_mut(),
                Some(start::<C>),
                context.as_ptr().cast(),
            )
        })?;
        Ok(Self { context, handle })
    }
}

impl<C: ThreadRoutine> Deref for Thread<C> {
    type Target = C;

    fn deref(&self) -> &C {
        &self.context
    }
}

impl<C: ThreadRoutine> Drop for Thread<C> {
    /// IRQL: PASSIVE_LEVEL.
    fn drop(&mut self) {
        self.context.stop();
        // SAFETY: the handle is the thread's; at PASSIVE_LEVEL waiting is allowed, and it ends when the thread does.
        let _ = unsafe { ntddk::ZwWaitForSingleObject(self.handle, NO, ptr::null_mut()) };
        // SAFETY: the handle is ours and not used again.
        let _ = unsafe { ntddk::ZwClose(self.handle) };
    }
}

/// IRQL: PASSIVE_LEVEL.
unsafe extern "C" fn start<C: ThreadRoutine>(context: PVOID) {
    // SAFETY: `spawn` passed the context, and `drop` waits for this thread before it is freed.
    let context = unsafe { &*context.cast::<C>() };
    // SAFETY: system threads start at PASSIVE_LEVEL.
    context.run(unsafe { Passive::assume() });
}
