//! Scenarios in files can be explored, and become smaller.

use std::path::PathBuf;

use super::{Scenario, Step, Thread, check::Known};
use crate::{
    config::Config,
    explore::{self, Tally},
    machine::Outcome,
};

impl explore::Scenario for Scenario {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn images(&self) -> Vec<PathBuf> {
        self.drivers().map(|driver| driver.image.clone()).collect()
    }

    fn run(&self, config: Config) -> Outcome<Result<Tally, String>> {
        let own = self.config().unwrap_or_else(|error| panic!("{error}"));
        let Config { processors, groups, memory, time_limit_ns, .. } = own;
        let config = Config { processors, groups, memory, time_limit_ns, ..config };
        self.run(config).map(|()| Ok(Tally::new()))
    }

    fn shrink(&self) -> Vec<Self> {
        let mut smaller = Vec::new();
        for number in 0..self.threads.len() {
            let mut scenario = self.clone();
            scenario.threads.remove(number);
            smaller.push(scenario);
        }
        smaller.extend(self.with_fewer_steps());
        smaller.extend(self.with_fewer_repetitions());
        smaller.extend(self.without_a_device());
        smaller.extend(self.with_fewer_processors());
        smaller.into_iter().map(Self::without_dangling_steps).filter(|scenario| scenario.check().is_ok()).collect()
    }
}

impl Scenario {
    fn lists(&mut self) -> impl Iterator<Item = &mut Vec<Step>> {
        let threads = self.threads.iter_mut().map(|thread| &mut thread.steps);
        [&mut self.before, &mut self.after].into_iter().chain(threads)
    }

    /// Without a span of the steps of one list: all of them, each half, each quarter and so on.
    fn with_fewer_steps(&self) -> Vec<Self> {
        let mut smaller = Vec::new();
        let lengths: Vec<usize> = self.clone().lists().map(|list| list.len()).collect();
        for (number, length) in lengths.into_iter().enumerate() {
            let mut span = length;
            while span > 0 {
                for start in (0..length).step_by(span) {
                    let mut scenario = self.clone();
                    if let Some(list) = scenario.lists().nth(number) {
                        list.drain(start..length.min(start + span));
                    }
                    smaller.push(scenario);
                }
                span /= 2;
            }
        }
        smaller
    }

    fn with_fewer_repetitions(&self) -> Vec<Self> {
        let mut smaller = Vec::new();
        for (number, thread) in self.threads.iter().enumerate() {
            let fewer = [1, thread.repeat / 2, thread.repeat - 1];
            for repeat in fewer.into_iter().filter(|&repeat| repeat > 0 && repeat < thread.repeat) {
                let mut scenario = self.clone();
                scenario.threads[number].repeat = repeat;
                smaller.push(scenario);
            }
        }
        smaller
    }

    fn without_a_device(&self) -> Vec<Self> {
        let without = |number: usize| {
            let mut scenario = self.clone();
            scenario.devices.remove(number);
            scenario
        };
        (0..self.devices.len()).map(without).collect()
    }

    fn with_fewer_processors(&self) -> Vec<Self> {
        let mut one = self.clone();
        one.machine.processors = 1;
        let mut no_more = self.clone();
        no_more.machine.maximum = no_more.machine.processors;
        [one, no_more].into_iter().filter(|scenario| scenario.machine != self.machine).collect()
    }

    /// Without steps on what is not there any more, and threads without steps.
    fn without_dangling_steps(self) -> Self {
        let mut known = Known::of(&self);
        let before = known.keep(&self.before);
        let keep = |thread: &Thread| Thread { steps: known.for_thread().keep(&thread.steps), ..thread.clone() };
        let threads: Vec<Thread> = self.threads.iter().map(keep).filter(|thread| !thread.steps.is_empty()).collect();
        let after = known.keep(&self.after);
        Self { before, after, threads, ..self.clone() }
    }
}
