//! The same work done several times at once.
//!
//! Machines change the protection of pages all the time, and those of one process wait for each other wherever they do. So each has a
//! process of its own, where that is safe: where this thread is the process's only one. Elsewhere, as in tests, they are OS threads.

use std::{
    fs,
    io::Write as _,
    panic::{self, AssertUnwindSafe},
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::Duration,
};

use serde::{Serialize, de::DeserializeOwned};

use crate::memory::host::{self, Child, Fork};

/// How often what has been done is shown.
const SHOWN_EVERY: Duration = Duration::from_millis(100);
/// How often to look for other threads, and how long after the last look.
const LOOKS: u32 = 20;
const LOOK_AGAIN_AFTER: Duration = Duration::from_micros(500);

/// Does `work` `jobs` times at once, and `meanwhile` now and then.
///
/// # Panics
///
/// Where `work` does.
pub fn run<T: Send + Serialize + DeserializeOwned>(
    jobs: usize,
    work: impl Fn() -> T + Sync,
    meanwhile: impl Fn(),
) -> Vec<T> {
    let children = if is_alone() { fork_all(jobs, &work) } else { Vec::new() };
    if children.is_empty() {
        return on_threads(jobs, work, meanwhile);
    }
    at_once(children.into_iter().map(|child| || take(child)), meanwhile)
}

/// The same with OS threads, whatever may be.
///
/// # Panics
///
/// Where `work` does.
pub fn on_threads<T: Send>(jobs: usize, work: impl Fn() -> T + Sync, meanwhile: impl Fn()) -> Vec<T> {
    at_once((0..jobs.max(1)).map(|_| &work), meanwhile)
}

/// Whether this is the only thread of its process: a fork then leaves no lock behind that nobody will open.
fn is_alone() -> bool {
    // A thread that was joined may still be on its way out.
    (0..LOOKS).any(|look| {
        if look > 0 {
            thread::sleep(LOOK_AGAIN_AFTER);
        }
        fs::read_dir("/proc/self/task").is_ok_and(|threads| threads.count() == 1)
    })
}

/// Starts the processes, as many of them as the host lets start.
fn fork_all<T: Serialize>(jobs: usize, work: &impl Fn() -> T) -> Vec<Child> {
    let start = |_| match host::fork().ok()? {
        Fork::Parent(child) => Some(child),
        Fork::Child(mut results) => {
            let done = panic::catch_unwind(AssertUnwindSafe(|| {
                let text = serde_json::to_vec(&work())?;
                results.write_all(&text)
            }));
            host::end_child(matches!(done, Ok(Ok(()))))
        }
    };
    (0..jobs.max(1)).map_while(start).collect()
}

fn take<T: DeserializeOwned>(child: Child) -> T {
    let (text, ended) = child.wait().unwrap_or_else(|error| panic!("a process of the search is lost: {error}"));
    assert!(ended.success(), "a process of the search ended with {ended}");
    serde_json::from_slice(&text).expect("it wrote what it came to")
}

/// Runs each of `works` on an OS thread of its own.
fn at_once<T: Send>(works: impl Iterator<Item = impl FnOnce() -> T + Send>, meanwhile: impl Fn()) -> Vec<T> {
    let caller = thread::current();
    let ended = AtomicUsize::new(0);
    thread::scope(|scope| {
        let (caller, ended) = (&caller, &ended);
        let start = |work| {
            scope.spawn(move || {
                let result = panic::catch_unwind(AssertUnwindSafe(work));
                ended.fetch_add(1, Ordering::Release);
                caller.unpark();
                result
            })
        };
        let threads: Vec<_> = works.map(start).collect();
        while ended.load(Ordering::Acquire) < threads.len() {
            meanwhile();
            thread::park_timeout(SHOWN_EVERY);
        }
        let join = |thread: thread::ScopedJoinHandle<'_, thread::Result<T>>| {
            thread.join().flatten().unwrap_or_else(|payload| panic::resume_unwind(payload))
        };
        threads.into_iter().map(join).collect()
    })
}
