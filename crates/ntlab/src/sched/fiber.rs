//! Coroutines: what a simulated thread runs on.

use std::{fmt, ptr};

use corosensei::{Coroutine, CoroutineResult, Yielder};

use crate::exec::HostStack;

/// Suspends the fiber it belongs to. Valid while that fiber's body runs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Suspender(*const Yielder<(), ()>);

/// The code of a fiber.
pub(super) type Body<'k> = Box<dyn FnOnce(Suspender) + 'k>;

/// A coroutine. Dropping one that is suspended forgets its frames, because frames of the driver may be among them and those cannot be
/// unwound.
pub(super) struct Fiber(Option<Coroutine<(), (), (), HostStack>>);

impl fmt::Debug for Fiber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fiber").field("ended", &self.0.is_none()).finish()
    }
}

impl Suspender {
    /// Of no fiber: never used to suspend.
    pub(super) const NONE: Self = Self(ptr::null());

    /// Goes back to where the fiber was resumed, until it is resumed again.
    ///
    /// # Safety
    ///
    /// It belongs to the fiber that runs.
    pub(super) unsafe fn suspend(self) {
        // SAFETY: the caller runs on the fiber whose yielder this is; it lives at the base of that fiber's stack.
        let yielder = unsafe { &*self.0 };
        yielder.suspend(());
    }
}

impl Fiber {
    /// A fiber that will run `body` on `stack`.
    ///
    /// # Safety
    ///
    /// The fiber is dropped before anything `body` borrows.
    pub(super) unsafe fn new(stack: HostStack, body: Body<'_>) -> Self {
        let start = move |yielder: &Yielder<(), ()>, ()| body(Suspender(yielder));
        // SAFETY: what the closure borrows outlives the fiber, as the caller promises; it yields and returns nothing.
        Self(Some(unsafe { Coroutine::with_stack_unchecked(stack, start) }))
    }

    /// Runs it until it suspends itself, or to its end: then its stack comes back.
    pub(super) fn resume(&mut self) -> Option<HostStack> {
        let coroutine = self.0.as_mut().expect("a fiber that has ended is not resumed");
        match coroutine.resume(()) {
            CoroutineResult::Yield(()) => None,
            CoroutineResult::Return(()) => self.0.take().map(Coroutine::into_stack),
        }
    }
}

impl Drop for Fiber {
    fn drop(&mut self) {
        let Some(coroutine) = &mut self.0 else { return };
        if coroutine.started() && !coroutine.done() {
            // SAFETY: nothing points at values on the stack that would rely on their being dropped; they are leaked.
            unsafe { coroutine.force_reset() };
        }
    }
}
