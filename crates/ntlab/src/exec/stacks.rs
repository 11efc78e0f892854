//! The two stacks of a simulated thread.

use std::{cell::RefCell, num::NonZeroUsize, rc::Rc};

use corosensei::stack::{Stack, StackPointer};

use crate::memory::{Arena, PAGE, PageKind, Space, host};

/// The size of a kernel stack on x64.
const KERNEL_STACK: u64 = 24 << 10;
/// A frame without a stack probe is smaller than a page; two pages are not jumped over.
const KERNEL_GUARD: u64 = 2 * PAGE;
/// Mostly untouched: pages come into being when they are used.
const HOST_STACK: u64 = 256 << 10;
/// Room at the top, as for the trap frame of a thread's first frame.
const TOP: u64 = 128;

/// A kernel stack of the real size, with a guard below.
#[derive(Debug)]
pub struct KernelStack {
    low: u64,
}

impl KernelStack {
    /// Where a thread that has not called into the driver yet is: nothing on either stack.
    #[must_use]
    pub const fn context(&self) -> Context {
        Context { host_sp: 0, guest_sp: self.low + KERNEL_STACK - TOP, stack_low: self.low, interrupted: 0 }
    }

    /// The lowest usable address.
    #[must_use]
    pub const fn low(&self) -> u64 {
        self.low
    }

    /// The end.
    #[must_use]
    pub const fn high(&self) -> u64 {
        self.low + KERNEL_STACK
    }
}

/// Where a thread is on its stacks. [`Exec::save`](super::Exec::save) before a suspend, [`Exec::restore`](super::Exec::restore) after.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Context {
    pub(super) host_sp: u64,
    pub(crate) guest_sp: u64,
    pub(super) stack_low: u64,
    /// `host_sp` where the interrupt or DPC began that runs; 0 for none.
    pub(super) interrupted: u64,
}

impl Context {
    /// Where the interrupt or DPC began that runs; 0 for none.
    #[must_use]
    pub const fn interrupted(&self) -> u64 {
        self.interrupted
    }
}

/// Whether the kernel stack whose lowest address is `low` holds an address.
pub(super) const fn holds(low: u64, address: u64) -> bool {
    low <= address && address < low + KERNEL_STACK
}

/// The stack of a coroutine, on which kernel functions run.
#[derive(Debug)]
pub struct HostStack {
    low: u64,
    /// The stack lies in the machine's addresses, which must stay as long.
    _space: Rc<Space>,
}

// SAFETY: the lowest page of the range faults, and the rest, far more than the least size, belongs to this value alone.
unsafe impl Stack for HostStack {
    fn base(&self) -> StackPointer {
        address(self.low + HOST_STACK)
    }

    fn limit(&self) -> StackPointer {
        address(self.low)
    }
}

const fn address(address: u64) -> StackPointer {
    NonZeroUsize::new(host::to_usize(address)).expect("the reservation does not start at 0")
}

/// Makes stacks, and keeps those that are free for the next thread.
#[derive(Debug)]
pub struct Stacks {
    space: Rc<Space>,
    kernel: RefCell<Vec<KernelStack>>,
    host: RefCell<Vec<HostStack>>,
}

impl Stacks {
    pub(super) fn new(space: &Rc<Space>) -> Self {
        Self { space: Rc::clone(space), kernel: RefCell::default(), host: RefCell::default() }
    }

    /// A kernel stack.
    pub fn kernel_stack(&self) -> KernelStack {
        if let Some(stack) = self.kernel.borrow_mut().pop() {
            return stack;
        }
        let guard = self.space.take(Arena::Stacks, KERNEL_GUARD + KERNEL_STACK);
        self.space.mark(guard, KERNEL_GUARD, PageKind::StackGuard);
        self.space.open(guard + KERNEL_GUARD, KERNEL_STACK, PageKind::Stack);
        KernelStack { low: guard + KERNEL_GUARD }
    }

    /// A host stack.
    pub fn host_stack(&self) -> HostStack {
        if let Some(stack) = self.host.borrow_mut().pop() {
            return stack;
        }
        let low = self.space.take(Arena::HostStacks, HOST_STACK);
        self.space.open_host_stack(low, HOST_STACK);
        HostStack { low, _space: Rc::clone(&self.space) }
    }

    /// Takes the kernel stack of a thread that ended.
    pub fn give_back_kernel_stack(&self, stack: KernelStack) {
        self.kernel.borrow_mut().push(stack);
    }

    /// Takes the host stack of a coroutine that ended.
    pub fn give_back_host_stack(&self, stack: HostStack) {
        self.host.borrow_mut().push(stack);
    }
}
