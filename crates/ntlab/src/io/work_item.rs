//! Work items and the system's worker threads ("System Worker Threads", "Work Items").

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    ops::Range,
};

use super::{device, object};
use crate::{at, finding::Finding, kernel::Kernel, memory::Ptr, sched::ThreadId, tracking::Tracked};

/// `INVALID_WORK_QUEUE_ITEM`.
const INVALID_WORK_QUEUE_ITEM: u32 = 0x96;
/// As many worker threads as a busy system has.
const MAXIMUM_WORKERS: usize = 16;

/// A work item, as it lies in the machine's memory; opaque to drivers.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct WorkItem {
    signature: u64,
    /// The device or driver object it works for.
    object: u64,
    routine: u64,
    context: u64,
    queued: u32,
    extended: u32,
}

/// What makes a work item one.
const SIGNATURE: u64 = 0x6D65_7469_6B72_6F57;

/// Work for a worker thread.
enum Work {
    Item(Ptr<WorkItem>),
    Lab(Box<dyn FnOnce(&Kernel)>),
}

/// The queue and its threads.
#[derive(Default)]
pub struct WorkItems {
    queue: RefCell<VecDeque<Work>>,
    idle: RefCell<Vec<ThreadId>>,
    workers: Cell<usize>,
    /// Items whose routines run.
    running: Cell<usize>,
    /// Items that are allocated.
    allocated: RefCell<Vec<Ptr<WorkItem>>>,
}

impl std::fmt::Debug for WorkItems {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WorkItems").field("queued", &self.queue.borrow().len()).finish_non_exhaustive()
    }
}

impl WorkItems {
    /// Whether no work item is queued or runs.
    pub(crate) fn is_quiet(&self) -> bool {
        self.running.get() == 0 && self.queue.borrow().is_empty()
    }

    /// A work item in these addresses that is queued.
    pub(crate) fn queued_in(&self, range: &Range<u64>) -> Option<u64> {
        let queue = self.queue.borrow();
        let items = queue.iter().filter_map(|work| match work {
            Work::Item(item) => Some(item.address()),
            Work::Lab(_) => None,
        });
        items.into_iter().find(|item| range.contains(item))
    }
}

/// Allocates a work item for a device or driver object (`IoAllocateWorkItem`).
pub fn allocate(k: &Kernel, object: u64) -> Ptr<WorkItem> {
    let item = k.memory.allocate_object::<WorkItem>();
    initialize(item, object);
    k.io.work_items.allocated.borrow_mut().push(item);
    k.tracking.made_for(k, Tracked::WorkItem, item.address(), device::physical(k, Ptr::new(object)), String::new);
    item
}

/// Makes a work item in a driver's own memory (`IoInitializeWorkItem`).
pub fn initialize(item: Ptr<WorkItem>, object: u64) {
    item.write(WorkItem { signature: SIGNATURE, object, routine: 0, context: 0, queued: 0, extended: 0 });
}

fn check(item: Ptr<WorkItem>, function: &str) {
    if at!(item, signature).read() != SIGNATURE {
        raise(item, format!("{function} was called for something that is no work item, or no longer one"));
    }
}

fn raise(item: Ptr<WorkItem>, sentence: impl Into<String>) -> ! {
    Finding::bug_check(INVALID_WORK_QUEUE_ITEM, [item.address(), 0, 0, 0], sentence).raise()
}

/// Frees a work item (`IoFreeWorkItem`).
pub fn free(k: &Kernel, item: Ptr<WorkItem>) {
    uninitialize(item, "IoFreeWorkItem");
    let mut allocated = k.io.work_items.allocated.borrow_mut();
    let Some(position) = allocated.iter().position(|&known| known == item) else {
        drop(allocated);
        raise(item, "IoFreeWorkItem was called for a work item that IoAllocateWorkItem did not allocate");
    };
    allocated.remove(position);
    drop(allocated);
    k.tracking.gone(Tracked::WorkItem, item.address());
    k.memory.free_object(item);
}

/// Ends a work item (`IoUninitializeWorkItem`).
pub fn uninitialize(item: Ptr<WorkItem>, function: &str) {
    check(item, function);
    if at!(item, queued).read() != 0 {
        raise(item, format!("{function} was called for a work item that is queued"));
    }
    at!(item, signature).write(0);
}

/// Queues a work item (`IoQueueWorkItem`, and with `extended` `IoQueueWorkItemEx`). Its object is kept alive until the routine returns.
pub fn queue(k: &Kernel, item: Ptr<WorkItem>, routine: u64, context: u64, extended: bool) {
    check(item, "IoQueueWorkItem");
    if at!(item, queued).read() != 0 {
        raise(item, "IoQueueWorkItem was called for a work item that is queued already");
    }
    let object = at!(item, object).read();
    object::reference(k, object);
    item.write(WorkItem { signature: SIGNATURE, object, routine, context, queued: 1, extended: extended.into() });
    add(k, Work::Item(item));
}

/// Has a worker thread do `work` at `PASSIVE_LEVEL`.
pub fn run(k: &Kernel, work: impl FnOnce(&Kernel) + 'static) {
    add(k, Work::Lab(Box::new(work)));
}

fn add(k: &Kernel, work: Work) {
    let items = &k.io.work_items;
    items.queue.borrow_mut().push_back(work);
    if let Some(worker) = items.idle.borrow_mut().pop() {
        return k.wake(worker);
    }
    if items.workers.get() < MAXIMUM_WORKERS {
        items.workers.set(items.workers.get() + 1);
        k.spawn("worker", work_forever);
    }
}

fn work_forever(k: &Kernel) {
    let items = &k.io.work_items;
    loop {
        let work = items.queue.borrow_mut().pop_front();
        match work {
            Some(Work::Item(item)) => run_item(k, item),
            Some(Work::Lab(work)) => work(k),
            None => {
                items.idle.borrow_mut().push(k.thread_id());
                k.park("work for a worker thread", None);
            }
        }
    }
}

fn run_item(k: &Kernel, item: Ptr<WorkItem>) {
    let WorkItem { object, routine, context, extended, .. } = item.read();
    let running = &k.io.work_items.running;
    running.set(running.get() + 1);
    // From here on the driver may queue the item again, or free it in its routine.
    at!(item, queued).write(0);
    if extended == 0 {
        k.call("work item", routine, &[object, context]);
    } else {
        k.call("work item", routine, &[object, context, item.address()]);
    }
    object::dereference(k, object);
    running.set(running.get() - 1);
}
