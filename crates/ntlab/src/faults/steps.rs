//! What happens between two particular kernel calls of drivers.

use std::cell::{Cell, RefCell};

use crate::{kernel::Kernel, machine::System, pnp, sched::ThreadId};

/// What is due at which kernel call.
#[derive(Debug)]
pub struct Steps {
    /// Kernel calls of drivers so far.
    count: Cell<u64>,
    /// The next at which something is due.
    next: Cell<u64>,
    due: RefCell<Vec<(u64, Action)>>,
}

#[derive(Clone, Copy, Debug)]
enum Action {
    /// This device is pulled out.
    Unplug(u32),
    /// This thread goes on.
    Wake(ThreadId),
}

impl Default for Steps {
    fn default() -> Self {
        Self { count: Cell::new(0), next: Cell::new(u64::MAX), due: RefCell::default() }
    }
}

impl Steps {
    /// A driver calls the kernel.
    #[inline]
    pub fn step(&self, k: &Kernel) {
        let count = self.count.get() + 1;
        self.count.set(count);
        if count >= self.next.get() {
            self.act(k, count);
        }
    }

    #[cold]
    #[inline(never)]
    fn act(&self, k: &Kernel, count: u64) {
        let due: Vec<(u64, Action)> = self.due.borrow_mut().extract_if(.., |(at, _)| *at <= count).collect();
        self.find_next();
        for (_, action) in due {
            match action {
                Action::Unplug(device) => pnp::unplug(k, device),
                Action::Wake(thread) => k.wake(thread),
            }
        }
    }

    fn add(&self, at: u64, action: Action) {
        self.due.borrow_mut().push((at, action));
        self.find_next();
    }

    fn find_next(&self) {
        self.next.set(self.due.borrow().iter().map(|(at, _)| *at).min().unwrap_or(u64::MAX));
    }

    /// Device number `device` is pulled out at kernel call number `at`.
    pub fn unplug(&self, at: u64, device: u32) {
        self.add(at, Action::Unplug(device));
    }

    /// How many kernel calls of drivers there were.
    pub const fn count(&self) -> u64 {
        self.count.get()
    }
}

impl System {
    /// How many kernel calls drivers have made.
    #[must_use]
    pub const fn kernel_calls(&self) -> u64 {
        self.kernel.faults.steps.count()
    }

    /// Waits until drivers have made `count` kernel calls since the machine started, true, or at most `ns`, false.
    #[must_use]
    pub fn wait_for_call(&self, count: u64, ns: u64) -> bool {
        let k = &self.kernel;
        let deadline = k.now() + ns;
        k.faults.steps.add(count, Action::Wake(k.thread_id()));
        while self.kernel_calls() < count {
            if !k.park("a kernel call of a driver", Some(deadline)) && k.now() >= deadline {
                return self.kernel_calls() >= count;
            }
        }
        true
    }
}
