//! What a machine is made of, and whether that makes sense.

use std::ops::Range;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{choices::Tape, faults::Plan};

/// The most processors Windows has room for in its structures (`KDPC.Number` and the group masks).
pub const MAXIMUM_PROCESSORS: u32 = 2048;
/// Bits of a group's affinity mask.
pub const MAXIMUM_GROUP_SIZE: u32 = 64;

/// A processor group: which numbers of its mask processors can have. The mask may have gaps.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Group {
    /// A bit for each processor that is or can be added.
    pub mask: u64,
    /// The NUMA nodes in it, as masks that split `mask`; a group has at least one, and no node spans groups.
    pub nodes: Vec<u64>,
    /// Those of `mask` whose processors are not there when the machine starts, however many [`Config::processors`] are.
    #[serde(default)]
    pub absent: u64,
}

impl Group {
    /// A group with one node.
    #[must_use]
    pub fn new(mask: u64) -> Self {
        Self { mask, nodes: vec![mask], absent: 0 }
    }
}

/// Where drivers are interrupted: where other threads and processors go on, and interrupts and DPCs come in.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Preemption {
    /// At kernel calls and accesses to device registers: driver code runs as it is.
    #[default]
    KernelCalls,
    /// At any instruction of a driver too, about once in so many. Instructions that read and write memory without a lock are torn.
    Instructions {
        /// 1 is every instruction.
        one_in: u32,
    },
}

/// What is checked of drivers, beside what kernel functions check of their arguments.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Checks {
    /// What kernel functions see of a driver: levels, arguments, and what is left at unload.
    Calls,
    /// Also what a driver does between its calls, as far as it leaves traces: order of locks, writes to structures and buffers after their end,
    /// bytes that were never written; and the last events are kept for reports.
    Traces,
    /// Also accesses: the pages of requests that have ended, and pageable memory at `DISPATCH_LEVEL`, are taken away. That takes system calls.
    #[default]
    All,
}

/// Where in their page pool blocks of drivers lie that are smaller than one ("Special Pool").
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SpecialPool {
    /// Some at the start and most at the end, as the seed has it.
    #[default]
    Either,
    /// "Verify End": at the end, so that an overrun faults.
    VerifyEnd,
    /// "Verify Start": at the start, so that an underrun faults.
    VerifyStart,
}

/// Who goes on at a scheduling point.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Policy {
    /// Any, at random points, about one in [`Config::switch_every`].
    #[default]
    Uniform,
    /// Whoever has the highest of priorities drawn at random; at `depth - 1` random points who runs gets a low one. Finds what needs `depth`
    /// events in one order with a known chance ("A Randomized Scheduler with Probabilistic Guarantees of Finding Bugs").
    Pct {
        /// How many events must be in order, from 1.
        depth: u32,
        /// About how many scheduling points a run has ([`Outcome::points`](crate::machine::Outcome::points)).
        points: u64,
    },
}

/// A machine to be made.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default)]
#[allow(clippy::struct_excessive_bools, reason = "each is a question of its own")]
pub struct Config {
    /// Decides everything that is left to chance.
    pub seed: u64,
    /// Processors that are active when the machine starts: the first of the layout, without [`Group::absent`] ones.
    pub processors: u32,
    /// Processor groups, in order. Processor indices count through their masks.
    pub groups: Vec<Group>,
    /// Physical memory in bytes when the machine starts.
    pub memory: u64,
    /// Virtual nanoseconds that a kernel call takes.
    pub call_ns: u32,
    /// A switch to another processor or thread is considered once in about so many scheduling points, of which a kernel call has two, one
    /// before and one after it; 1 is every point. For [`Policy::Uniform`].
    pub switch_every: u32,
    /// Where drivers are interrupted.
    pub preemption: Preemption,
    /// Whether to count the instructions of drivers and the basic blocks that run, also where that is not needed to interrupt them.
    pub count_instructions: bool,
    /// Whether to note the basic blocks that run, at nearly no cost: by a breakpoint at each that has not run yet.
    pub note_blocks: bool,
    /// Who goes on at a scheduling point.
    pub policy: Policy,
    /// What is played back instead of drawing with the seed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tape: Option<Tape>,
    /// Whether to record what is drawn ([`Outcome::tape`](crate::machine::Outcome::tape)).
    pub keep_tape: bool,
    /// Whether to note which calls and callbacks followed each other on different processors and threads
    /// ([`Outcome::interleavings`](crate::machine::Outcome::interleavings)).
    pub keep_interleavings: bool,
    /// Whether to note interrupts, DPCs and requests of users with their beginnings and ends
    /// ([`System::take_timeline`](crate::machine::System::take_timeline)). All of them stay in memory until they are taken.
    pub keep_timeline: bool,
    /// Whether a panic of the scenario, as a failed assertion is, becomes the report of a promise that the driver broke
    /// ([`Cause::BrokenPromise`](crate::finding::Cause::BrokenPromise)), instead of a panic of the caller.
    pub report_panics: bool,
    /// Virtual nanoseconds after which a scenario that has not ended is taken to hang.
    pub time_limit_ns: u64,
    /// What is checked. The run goes the same way without, so that what checks cost can be measured.
    pub checks: Checks,
    /// Where small pool blocks of drivers lie in their pages.
    pub special_pool: SpecialPool,
    /// Kernel calls that fail.
    pub faults: Plan,
    /// Whether to keep every event of the run, and not only the last ones that a report shows.
    pub keep_trace: bool,
    /// The command line that runs this again, for reports; whoever makes the machine knows it.
    pub repeat: Option<String>,
}

/// Why a machine cannot be made.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum ConfigError {
    /// No processor, no group.
    #[error("a machine needs at least one active processor and one processor group")]
    NoProcessor,
    /// More active processors than there are places for them.
    #[error("{processors} processors cannot be active where there are places for {maximum}")]
    TooManyActive {
        /// Active when the machine starts.
        processors: u32,
        /// Places in all groups, without absent ones.
        maximum: u32,
    },
    /// More than Windows serves.
    #[error("{maximum} processors are more than Windows serves ({MAXIMUM_PROCESSORS})")]
    TooManyProcessors {
        /// Places in all groups.
        maximum: u32,
    },
    /// A group size of 0 or above 64.
    #[error("a processor group has 1 to {MAXIMUM_GROUP_SIZE} processors, not {size}")]
    GroupSize {
        /// As asked for.
        size: u32,
    },
    /// A group without processors.
    #[error("processor group {group} has no processor in its mask")]
    EmptyGroup {
        /// Which.
        group: usize,
    },
    /// Processors are absent that there is no place for.
    #[error("processor group {group} lacks processors {absent:#x} at the start, its mask is {mask:#x}")]
    Absent {
        /// Which group.
        group: usize,
        /// As asked for.
        absent: u64,
        /// Its mask.
        mask: u64,
    },
    /// Nodes overlap, are empty or leave processors out.
    #[error("the NUMA nodes of processor group {group} do not split its mask {mask:#x}")]
    Nodes {
        /// Which group.
        group: usize,
        /// Its mask.
        mask: u64,
    },
    /// Less memory than the smallest machine has, or not whole pages.
    #[error("{memory} bytes of memory: at least 64 MiB, in whole pages")]
    Memory {
        /// As asked for.
        memory: u64,
    },
    /// A rate of 0.
    #[error("call_ns, switch_every and one_in must not be 0")]
    Rate,
    /// A depth of 0, or a run without points.
    #[error("the depth and the points of a schedule by priorities must not be 0")]
    Priorities,
}

impl Default for Config {
    /// 2 of 8 processors in one group, 4 GiB.
    fn default() -> Self {
        Self {
            seed: 0,
            processors: 2,
            groups: vec![Group::new(0xFF)],
            memory: 4 << 30,
            call_ns: 100,
            switch_every: 12,
            preemption: Preemption::KernelCalls,
            count_instructions: false,
            note_blocks: false,
            policy: Policy::Uniform,
            tape: None,
            keep_tape: false,
            keep_interleavings: false,
            keep_timeline: false,
            report_panics: false,
            time_limit_ns: 600_000_000_000,
            checks: Checks::All,
            special_pool: SpecialPool::Either,
            faults: Plan::default(),
            keep_trace: false,
            repeat: None,
        }
    }
}

impl Config {
    /// A machine where `processors` of `maximum` processors are active, in groups of 64.
    ///
    /// # Errors
    ///
    /// What is wrong with the numbers.
    pub fn new(processors: u32, maximum: u32) -> Result<Self, ConfigError> {
        Self::grouped(processors, maximum, MAXIMUM_GROUP_SIZE)
    }

    /// The same in groups of `size`; the last may be smaller.
    ///
    /// # Errors
    ///
    /// What is wrong with the numbers.
    pub fn grouped(processors: u32, maximum: u32, size: u32) -> Result<Self, ConfigError> {
        if !(1..=MAXIMUM_GROUP_SIZE).contains(&size) {
            return Err(ConfigError::GroupSize { size });
        }
        let config = Self { processors, groups: groups_of(maximum, size), ..Self::default() };
        config.check()?;
        Ok(config)
    }

    /// The same machine with another seed.
    #[must_use]
    pub fn with_seed(self, seed: u64) -> Self {
        Self { seed, ..self }
    }

    /// The same machine with kernel calls that fail.
    #[must_use]
    pub fn with_faults(self, faults: Plan) -> Self {
        Self { faults, ..self }
    }

    /// The most processors there can ever be.
    #[must_use]
    pub fn maximum_processors(&self) -> u32 {
        self.groups.iter().map(|group| group.mask.count_ones()).sum()
    }

    /// Whether such a machine can be.
    ///
    /// # Errors
    ///
    /// The first thing that is wrong.
    pub fn check(&self) -> Result<(), ConfigError> {
        if self.processors == 0 || self.groups.is_empty() {
            return Err(ConfigError::NoProcessor);
        }
        for (index, group) in self.groups.iter().enumerate() {
            check_group(index, group)?;
        }
        let maximum = self.maximum_processors();
        if maximum > MAXIMUM_PROCESSORS {
            return Err(ConfigError::TooManyProcessors { maximum });
        }
        let absent: u32 = self.groups.iter().map(|group| group.absent.count_ones()).sum();
        if self.processors > maximum - absent {
            return Err(ConfigError::TooManyActive { processors: self.processors, maximum: maximum - absent });
        }
        if self.memory < 64 << 20 || !self.memory.is_multiple_of(4096) {
            return Err(ConfigError::Memory { memory: self.memory });
        }
        let never = self.preemption == Preemption::Instructions { one_in: 0 };
        if self.call_ns == 0 || self.switch_every == 0 || never {
            return Err(ConfigError::Rate);
        }
        if matches!(self.policy, Policy::Pct { depth: 0, .. } | Policy::Pct { points: 0, .. }) {
            return Err(ConfigError::Priorities);
        }
        Ok(())
    }
}

fn check_group(index: usize, group: &Group) -> Result<(), ConfigError> {
    if group.mask == 0 {
        return Err(ConfigError::EmptyGroup { group: index });
    }
    if group.absent & !group.mask != 0 {
        return Err(ConfigError::Absent { group: index, absent: group.absent, mask: group.mask });
    }
    let union = group.nodes.iter().fold(0, |union, node| union | node);
    let members: u32 = group.nodes.iter().map(|node| node.count_ones()).sum();
    if union == group.mask && members == group.mask.count_ones() && !group.nodes.contains(&0) {
        Ok(())
    } else {
        Err(ConfigError::Nodes { group: index, mask: group.mask })
    }
}

fn groups_of(maximum: u32, size: u32) -> Vec<Group> {
    let full = 0..maximum / size;
    let mut groups: Vec<Group> = full.map(|_| Group::new(mask_of(0..size))).collect();
    if !maximum.is_multiple_of(size) {
        groups.push(Group::new(mask_of(0..maximum % size)));
    }
    groups
}

fn mask_of(numbers: Range<u32>) -> u64 {
    numbers.fold(0, |mask, number| mask | 1 << number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_of_contradictory_numbers_is_refused_with_the_reason() {
        let text = |result: Result<Config, ConfigError>| result.expect_err("contradictory").to_string();
        assert_eq!(text(Config::new(9, 8)), "9 processors cannot be active where there are places for 8");
        assert_eq!(text(Config::new(0, 8)), "a machine needs at least one active processor and one processor group");
        assert_eq!(text(Config::new(1, 2049)), "2049 processors are more than Windows serves (2048)");
        assert_eq!(text(Config::grouped(1, 8, 65)), "a processor group has 1 to 64 processors, not 65");
    }

    #[test]
    fn nodes_must_split_the_mask_of_their_group() {
        let with =
            |nodes: Vec<u64>| Config { groups: vec![Group { nodes, ..Group::new(0b1011) }], ..Config::default() };
        assert_eq!(with(vec![0b1000, 0b0011]).check(), Ok(()));
        for wrong in [vec![], vec![0b1011, 0], vec![0b0011, 0b1010], vec![0b0011]] {
            assert_eq!(with(wrong).check(), Err(ConfigError::Nodes { group: 0, mask: 0b1011 }));
        }
    }

    #[test]
    fn processors_can_be_absent_where_there_are_places_for_them() {
        let with = |processors, absent| Config {
            processors,
            groups: vec![Group { absent, ..Group::new(0b1011) }],
            ..Config::default()
        };
        assert_eq!(with(2, 0b0001).check(), Ok(()));
        assert_eq!(with(3, 0b0001).check(), Err(ConfigError::TooManyActive { processors: 3, maximum: 2 }));
        assert_eq!(with(1, 0b0100).check(), Err(ConfigError::Absent { group: 0, absent: 0b0100, mask: 0b1011 }));
    }

    #[test]
    fn the_last_group_takes_what_is_left() {
        let config = Config::grouped(1, 70, 32).expect("valid");
        assert_eq!(config.groups.iter().map(|group| group.mask).collect::<Vec<_>>(), [0xFFFF_FFFF, 0xFFFF_FFFF, 0x3F]);
    }
}
