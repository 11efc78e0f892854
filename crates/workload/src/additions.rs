//! What the demo adds to its machine, and in which order.

use std::fmt;

use ntlab::{hot_add::NewProcessor, machine::System, user::Status};

/// Bytes of a memory module.
const MODULE: u64 = 2 << 30;
/// How many are added.
const MODULES: u32 = 2;

/// Processors one by one; the memory modules after a third and two thirds of them.
#[derive(Clone, Copy, Debug)]
pub struct Additions {
    /// How many processors.
    pub processors: u32,
}

/// A processor or a memory module that is added: its number, from 1, and how many there are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Addition {
    /// A processor.
    Processor(u32, u32),
    /// A memory module.
    Module(u32, u32),
}

impl Additions {
    /// Bytes of memory that are added.
    pub const MEMORY: u64 = MODULES as u64 * MODULE;

    /// All of them, in their order.
    #[must_use]
    pub fn all(self) -> Vec<Addition> {
        let processors = (1..=self.processors).map(|number| Addition::Processor(number, self.processors));
        let mut all: Vec<_> = processors.collect();
        for module in (1..=MODULES).rev() {
            // The first processor that is as far along as the module.
            let place = (self.processors * module).div_ceil(MODULES + 1);
            all.insert(place as usize, Addition::Module(module, MODULES));
        }
        all
    }
}

impl Addition {
    /// Makes it happen.
    ///
    /// # Errors
    ///
    /// What the system refused it with.
    pub fn make(self, system: &System) -> Result<(), Status> {
        match self {
            Self::Processor(..) => system.add_processor(NewProcessor::default()).map(drop),
            Self::Module(..) => system.add_memory(MODULE, 0),
        }
    }
}

impl fmt::Display for Addition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Processor(number, all) => write!(f, "processor {number} of {all}"),
            Self::Module(number, all) => write!(f, "memory module {number} of {all}, 2 GiB"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Addition::*, *};

    #[test]
    fn modules_come_after_a_third_and_two_thirds_of_the_processors() {
        let all = Additions { processors: 6 }.all();
        let modules: Vec<_> = (0..).zip(&all).filter(|(_, step)| matches!(step, Module(..))).collect();
        assert_eq!(modules, [(2, &Module(1, 2)), (5, &Module(2, 2))]);
        assert_eq!(all.len(), 8);
        assert_eq!(Additions { processors: 0 }.all(), [Module(1, 2), Module(2, 2)]);
        assert_eq!(Additions { processors: 1 }.all(), [Processor(1, 1), Module(1, 2), Module(2, 2)]);
    }
}
