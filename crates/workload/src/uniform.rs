//! Uniform load: the same number of requests from each of some processors, and who served them.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    rc::Rc,
};

use ntlab::{
    machine::System,
    user::{Handle, Status},
};

use crate::client;

/// Virtual nanoseconds that it may take: ten minutes.
const PATIENCE: u64 = 600_000_000_000;
/// The number whose factorial is asked for, and that.
const NUMBER: u32 = 5;
const FACTORIAL: u32 = 120;

/// Factorials that threads ask for which are bound to processors.
#[derive(Clone, Debug)]
pub struct Uniform {
    /// The processors that ask, by index.
    pub requesters: Vec<u32>,
    /// Threads on each of them, each with one request at a time.
    pub threads: u32,
    /// Requests of each thread.
    pub requests: u32,
}

/// How it went.
#[derive(Clone, Debug, Default)]
pub struct Served {
    /// How many requests of which processor were served by which.
    pub by: BTreeMap<(u32, u32), u64>,
    /// Requests in a virtual second while all threads were at it.
    pub rate: f64,
}

impl Served {
    /// How many requests each processor served.
    #[must_use]
    pub fn by_server(&self) -> BTreeMap<u32, u64> {
        let mut servers = BTreeMap::new();
        for (&(_, server), &count) in &self.by {
            *servers.entry(server).or_default() += count;
        }
        servers
    }

    /// How many requests the busiest of so many processors served, of what each would have if all served as many.
    #[must_use]
    #[allow(clippy::cast_precision_loss, reason = "there are few")]
    pub fn most_of_mean(&self, processors: usize) -> f64 {
        let servers = self.by_server();
        let all: u64 = servers.values().sum();
        servers.values().max().copied().unwrap_or_default() as f64 * processors as f64 / all.max(1) as f64
    }

    /// How many requests were served on another node than that of the processor which asked. `node` tells the node of a processor.
    pub fn far(&self, node: impl Fn(u32) -> u32) -> u64 {
        let far = self.by.iter().filter(|((requester, server), _)| node(*requester) != node(*server));
        far.map(|(_, count)| count).sum()
    }
}

#[derive(Debug, Default)]
struct Shared {
    served: RefCell<BTreeMap<(u32, u32), u64>>,
    wrong: RefCell<Vec<String>>,
    ended: Cell<u64>,
    /// After how many requests the time is measured, and the time then: at the beginning some threads have not begun, and at the end some
    /// are done.
    marks: [(u64, Cell<u64>); 2],
}

impl Uniform {
    /// Asks the device of `handle`, and waits for the end.
    ///
    /// # Errors
    ///
    /// Requests that ended badly, or did not end.
    pub fn play<'k>(&self, system: &'k System, handle: &Rc<Handle<'k>>) -> Result<Served, String> {
        let all = self.requesters.len() as u64 * u64::from(self.threads * self.requests);
        let marks = [all / 8, all * 3 / 4].map(|mark| (mark, Cell::new(0)));
        let shared = Rc::new(Shared { marks, ..Shared::default() });
        for _ in 0..self.threads {
            for &requester in &self.requesters {
                let (handle, shared, requests) = (Rc::clone(handle), Rc::clone(&shared), self.requests);
                system.spawn("requester", move |system| {
                    if !system.bind(requester) {
                        shared.wrong.borrow_mut().push(format!("processor {requester} is not active"));
                    }
                    for _ in 0..requests {
                        shared.note(system, requester, client::factorial(&handle, NUMBER));
                    }
                });
            }
        }
        let deadline = system.now() + PATIENCE;
        while shared.ended.get() < all && system.now() < deadline {
            system.sleep(1_000_000);
        }
        if shared.ended.get() < all {
            shared.wrong.borrow_mut().push(format!("{} of {all} requests ended", shared.ended.get()));
        }
        let wrong = shared.wrong.take();
        if wrong.is_empty() { Ok(shared.result()) } else { Err(wrong.join("; ")) }
    }
}

impl Shared {
    fn note(&self, system: &System, requester: u32, answer: Result<hotadd_abi::FactorialOutput, Status>) {
        match answer {
            Ok(answer) if answer.factorial == FACTORIAL => {
                *self.served.borrow_mut().entry((requester, answer.processor)).or_default() += 1;
            }
            other => self.wrong.borrow_mut().push(format!("processor {requester} got {other:?}")),
        }
        self.ended.update(|ended| ended + 1);
        for (mark, time) in &self.marks {
            if self.ended.get() == *mark {
                time.set(system.now());
            }
        }
    }

    fn result(&self) -> Served {
        let [(first, start), (last, end)] = &self.marks;
        #[allow(clippy::cast_precision_loss, reason = "there are few")]
        let rate = (last - first) as f64 * 1e9 / (end.get() - start.get()).max(1) as f64;
        Served { by: self.served.take(), rate }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn served(by: &[((u32, u32), u64)]) -> Served {
        Served { by: by.iter().copied().collect(), rate: 0.0 }
    }

    #[test]
    fn the_busiest_processor_is_held_against_the_mean_of_all_of_them_those_that_serve_nothing_too() {
        let uneven = served(&[((0, 0), 3), ((1, 0), 2), ((1, 1), 1)]);
        assert!((uneven.most_of_mean(2) - 5.0 / 3.0).abs() < 1e-9);
        assert!((uneven.most_of_mean(4) - 10.0 / 3.0).abs() < 1e-9);
        assert!((served(&[((0, 1), 4), ((1, 0), 4)]).most_of_mean(2) - 1.0).abs() < 1e-9);
    }

    #[test]
    fn far_is_what_another_node_served() {
        let by = served(&[((0, 1), 3), ((0, 2), 2), ((2, 0), 5), ((3, 2), 7)]);
        assert_eq!(by.far(|processor| processor / 2), 7);
    }
}
