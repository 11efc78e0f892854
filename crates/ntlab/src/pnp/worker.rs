//! The PnP manager's thread: one action after the other, each on the same system thread.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    fmt,
    rc::Rc,
};

use crate::kernel::Kernel;

type Action = Box<dyn FnOnce(&Kernel)>;

/// Actions that wait for the PnP manager's thread.
#[derive(Default)]
pub struct Worker {
    queue: RefCell<VecDeque<Action>>,
    running: Cell<bool>,
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker").field("waiting", &self.queue.borrow().len()).finish_non_exhaustive()
    }
}

impl Worker {
    /// Whether nothing waits and nothing runs.
    pub const fn is_quiet(&self) -> bool {
        !self.running.get()
    }
}

/// Queues an action to the PnP manager's thread.
pub fn queue(k: &Kernel, action: impl FnOnce(&Kernel) + 'static) {
    let worker = &k.pnp.worker;
    worker.queue.borrow_mut().push_back(Box::new(action));
    if !worker.running.replace(true) {
        k.spawn("PnP manager", serve);
    }
}

/// Runs an action on the PnP manager's thread and waits for what it returns.
pub fn run<T: 'static>(k: &Kernel, what: &'static str, action: impl FnOnce(&Kernel) -> T + 'static) -> T {
    wait_for(k, what, |k, action| queue(k, action), action)
}

/// Runs an action on a system thread of its own and waits for what it returns.
pub fn on_thread<T: 'static>(k: &Kernel, what: &'static str, action: impl FnOnce(&Kernel) -> T + 'static) -> T {
    let start = |k: &Kernel, action: Action| {
        k.spawn(what, action);
    };
    wait_for(k, what, start, action)
}

fn wait_for<T: 'static>(
    k: &Kernel,
    what: &'static str,
    start: impl FnOnce(&Kernel, Action),
    action: impl FnOnce(&Kernel) -> T + 'static,
) -> T {
    let result = Rc::new(RefCell::new(None));
    let place = Rc::clone(&result);
    let waiting = k.thread_id();
    let action = move |k: &Kernel| {
        let value = action(k);
        *place.borrow_mut() = Some(value);
        k.wake(waiting);
    };
    start(k, Box::new(action));
    loop {
        if let Some(value) = result.borrow_mut().take() {
            return value;
        }
        k.park(what, None);
    }
}

fn serve(k: &Kernel) {
    let worker = &k.pnp.worker;
    loop {
        let action = worker.queue.borrow_mut().pop_front();
        let Some(action) = action else { break };
        action(k);
    }
    worker.running.set(false);
}
