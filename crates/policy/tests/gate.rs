//! The gate under every interleaving that a random schedule finds.

use std::collections::VecDeque;

use hotadd_abi::Gate as Mode;
use hotadd_policy::gate::{Closing, Releasing, State};
use proptest::prelude::*;

/// The rundown protection, the queue and the actors around a gate.
struct World {
    gate: State,
    /// The rundown protection can be acquired.
    active: bool,
    counted: u32,
    queue: VecDeque<u32>,
    next_request: u32,
    in_flight: Vec<u32>,
    passed: Vec<u32>,
    released: Vec<u32>,
    refused: Vec<u32>,
    closers: [Closer; 3],
    releasers: Vec<Releaser>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Closer {
    Open,
    /// Has to wait for the count.
    Draining,
    Joining,
    Closed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Releaser {
    Asking,
    Recounting,
    /// Requests can be counted, and the gate has not been told.
    Recounted,
    Counting,
    Taking,
    Finished,
}

impl World {
    const fn new() -> Self {
        Self {
            gate: State::held(0b1000),
            active: true,
            counted: 0,
            queue: VecDeque::new(),
            next_request: 0,
            in_flight: Vec::new(),
            passed: Vec::new(),
            released: Vec::new(),
            refused: Vec::new(),
            closers: [Closer::Open; 3],
            releasers: Vec::new(),
        }
    }

    fn request(&mut self) {
        let request = self.next_request;
        self.next_request += 1;
        loop {
            if self.gate.mode() == Mode::Running && self.active {
                self.counted += 1;
                self.in_flight.push(request);
                self.passed.push(request);
                return;
            }
            match self.gate.mode() {
                Mode::Holding => return self.queue.push_back(request),
                Mode::Refusing => return self.refused.push(request),
                Mode::Running => assert!(self.active, "a running gate that cannot count would spin for ever"),
            }
        }
    }

    fn complete(&mut self) {
        if self.in_flight.pop().is_some() {
            self.counted -= 1;
        }
    }

    fn step_closer(&mut self, which: usize) {
        let reason = 1 << which;
        self.closers[which] = match self.closers[which] {
            Closer::Open => match self.gate.close(reason) {
                Closing::Drain => {
                    self.active = false;
                    Closer::Draining
                }
                Closing::Join => Closer::Joining,
                Closing::Done => Closer::Closed,
            },
            Closer::Draining if self.counted == 0 => {
                if self.gate.drained() {
                    self.releasers.push(Releaser::Asking);
                }
                for other in 0..self.closers.len() {
                    if self.closers[other] == Closer::Joining {
                        self.closers[other] = self.closed(1 << other);
                    }
                }
                self.closed(reason)
            }
            Closer::Closed => {
                self.open(reason);
                Closer::Open
            }
            waiting @ (Closer::Draining | Closer::Joining) => waiting,
        };
    }

    /// Where one is who has waited until nothing was in flight: his reason may have been taken back meanwhile.
    const fn closed(&self, reason: u32) -> Closer {
        if self.gate.reasons() & reason == 0 { Closer::Open } else { Closer::Closed }
    }

    fn open(&mut self, reason: u32) {
        if self.gate.open(reason) {
            self.releasers.push(Releaser::Asking);
        }
    }

    /// Takes back what all closed the gate for, as a start does, whether or not they still wait.
    fn open_all(&mut self) {
        self.open(0b0111);
        for closer in &mut self.closers {
            if *closer == Closer::Closed {
                *closer = Closer::Open;
            }
        }
    }

    /// One who comes while held requests are let go, and whose own request is held, lets the first one go.
    fn help(&mut self) {
        let releases = self.releasers.iter().any(|releaser| *releaser != Releaser::Finished);
        if releases && self.active && self.gate.lets_go() {
            self.pass_first();
        }
    }

    /// Counts the first that is held and lets it go, if there is one.
    fn pass_first(&mut self) -> bool {
        let Some(request) = self.queue.pop_front() else { return false };
        self.counted += 1;
        self.in_flight.push(request);
        self.released.push(request);
        true
    }

    fn step_releaser(&mut self, which: usize) {
        let Some(&at) = self.releasers.get(which) else { return };
        self.releasers[which] = match at {
            Releaser::Asking => match self.gate.release() {
                Releasing::Recount => Releaser::Recounting,
                Releasing::Pass => Releaser::Counting,
                Releasing::Stop => Releaser::Finished,
            },
            Releaser::Recounting => {
                assert_eq!(self.counted, 0, "the count was made anew while requests were in flight");
                self.active = true;
                Releaser::Recounted
            }
            Releaser::Recounted => {
                self.gate.recounted();
                Releaser::Asking
            }
            Releaser::Counting if self.active => {
                self.counted += 1;
                Releaser::Taking
            }
            Releaser::Counting => Releaser::Asking,
            Releaser::Taking if !self.gate.lets_go() => {
                self.counted -= 1;
                Releaser::Asking
            }
            Releaser::Taking => {
                self.counted -= 1;
                if self.pass_first() {
                    Releaser::Asking
                } else {
                    self.gate.run();
                    Releaser::Finished
                }
            }
            Releaser::Finished => Releaser::Finished,
        };
    }

    fn check(&self) {
        if self.closers.contains(&Closer::Closed) {
            assert!(self.in_flight.is_empty(), "a closed gate has requests in flight");
        }
        let releasing = self.releasers.iter().filter(|releaser| **releaser != Releaser::Finished).count();
        assert!(releasing <= 1, "two let requests go at once, which mixes up their order");
        assert!(self.released.is_sorted(), "held requests were let go out of order");
    }

    /// Everybody finishes what they began, and every closer opens again.
    fn settle(&mut self) {
        for _ in 0..10_000 {
            self.complete();
            for which in 0..3 {
                if self.closers[which] != Closer::Open {
                    self.step_closer(which);
                }
            }
            for which in 0..self.releasers.len() {
                self.step_releaser(which);
            }
            self.check();
        }
    }
}

fn run(steps: &[u8], refuse_at: Option<usize>) -> World {
    let mut world = World::new();
    world.open(0b1000);
    for (at, step) in steps.iter().enumerate() {
        if refuse_at == Some(at) && world.gate.refuse() == Closing::Drain {
            world.active = false;
        }
        match step % 10 {
            0 | 1 => world.request(),
            2 => world.complete(),
            3..=5 => world.step_closer(usize::from(step % 10) - 3),
            6 => world.open_all(),
            7 => world.help(),
            _ => (0..world.releasers.len()).for_each(|which| world.step_releaser(which)),
        }
        world.check();
    }
    world
}

proptest! {
    #[test]
    fn nothing_is_in_flight_behind_a_closed_gate_and_everything_passes_in_the_end(steps in prop::collection::vec(any::<u8>(), 0..400)) {
        let mut world = run(&steps, None);
        world.settle();
        prop_assert_eq!(world.gate.mode(), Mode::Running);
        prop_assert!(world.queue.is_empty());
        let mut all: Vec<u32> = world.passed.iter().chain(&world.released).copied().collect();
        all.sort_unstable();
        prop_assert_eq!(all, (0..world.next_request).collect::<Vec<_>>());
    }

    #[test]
    fn a_gate_that_refuses_lets_nothing_through_any_more(
        steps in prop::collection::vec(any::<u8>(), 1..400),
        at in any::<prop::sample::Index>(),
    ) {
        let mut world = run(&steps, Some(at.index(steps.len())));
        let passed = world.passed.len() + world.released.len();
        let waiting = world.queue.len();
        world.request();
        world.open(0b1111);
        world.settle();
        prop_assert_eq!(world.gate.mode(), Mode::Refusing);
        prop_assert_eq!(world.passed.len() + world.released.len(), passed);
        prop_assert_eq!(world.queue.len(), waiting);
        prop_assert!(world.refused.contains(&(world.next_request - 1)));
    }
}

#[test]
fn a_gate_closed_for_two_reasons_opens_when_both_are_gone() {
    let mut gate = State::held(0b11);
    assert!(!gate.open(0b01));
    assert_eq!(gate.mode(), Mode::Holding);
    assert!(gate.open(0b10));
    assert_eq!(gate.release(), Releasing::Pass);
    assert!(gate.lets_go());
    gate.run();
    assert_eq!(gate.mode(), Mode::Running);
}
