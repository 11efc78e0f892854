//! IRQLs as types ("Managing Hardware Priorities").
//!
//! A token says at which IRQL the routine that holds it was called. Whoever calls the routine makes it: the dispatch
//! routines of [`crate::device`], the callbacks of the other modules. A token catches mistakes, it does not prove: code
//! that holds a spin lock still sees the token of the routine around it.

use core::marker::PhantomData;

/// The routine was called at PASSIVE_LEVEL: it may wait, touch pageable memory and call everything.
#[derive(Clone, Copy, Debug)]
pub struct Passive<'a>(PhantomData<*const &'a ()>);

/// The routine runs at DISPATCH_LEVEL: it must not wait and must not touch pageable memory.
#[derive(Clone, Copy, Debug)]
pub struct Dispatch<'a>(PhantomData<*const &'a ()>);

/// The routine runs at the IRQL of a device: it may acknowledge, note and queue a DPC.
#[derive(Clone, Copy, Debug)]
pub struct DeviceIrql<'a>(PhantomData<*const &'a ()>);

impl Passive<'_> {
    /// The token of a routine that is called at PASSIVE_LEVEL.
    ///
    /// # Safety
    ///
    /// The caller runs at PASSIVE_LEVEL, and the token does not outlive the routine.
    #[must_use]
    pub const unsafe fn assume() -> Self {
        Self(PhantomData)
    }
}

impl Dispatch<'_> {
    /// The token of a routine that runs at DISPATCH_LEVEL.
    ///
    /// # Safety
    ///
    /// The caller runs at DISPATCH_LEVEL for as long as the token lives.
    #[must_use]
    pub const unsafe fn assume() -> Self {
        Self(PhantomData)
    }
}

impl DeviceIrql<'_> {
    /// The token of an interrupt service routine.
    ///
    /// # Safety
    ///
    /// The caller is an interrupt service routine, and the token does not outlive it.
    #[must_use]
    pub const unsafe fn assume() -> Self {
        Self(PhantomData)
    }
}
