//! A machine from power-on to the end of a scenario.

use crate::{
    config::{Config, ConfigError},
    events::Event,
    kernel::Kernel,
    report::Report,
};

/// A machine that has not been switched on.
#[derive(Debug)]
pub struct Machine {
    config: Config,
}

/// What a scenario has of the running machine: everything a user process or an administrator can do to it.
#[derive(Debug)]
pub struct System {
    pub(crate) kernel: Kernel,
}

/// What became of a run.
#[derive(Debug)]
pub struct Outcome<T> {
    /// What the scenario returned, or why the machine stopped.
    pub result: Result<T, Box<Report>>,
    /// The seed that decides the run.
    pub seed: u64,
    /// Virtual nanoseconds it took.
    pub elapsed: u64,
    /// The trace, all of it where [`Config::keep_trace`] asks for it, else the last events.
    pub events: Vec<Event>,
}

impl Machine {
    /// A machine made as `config` says.
    ///
    /// # Errors
    ///
    /// What is wrong with `config`.
    pub fn new(config: Config) -> Result<Self, ConfigError> {
        config.check()?;
        Ok(Self { config })
    }

    /// Switches the machine on and runs `scenario` as the first thread of a user process, until it returns or something stops the
    /// machine.
    ///
    /// # Panics
    ///
    /// Where `scenario` panics, as a failed assertion does: the message is followed by the seed.
    pub fn run<T>(self, scenario: impl for<'k> FnOnce(&'k System) -> T) -> Outcome<T> {
        let _ = (self.config, scenario);
        todo!()
    }
}

impl System {
    /// Starts another thread of the user process. It ends with the machine at the latest.
    pub fn spawn<'k>(&'k self, _name: &str, _body: impl FnOnce(&'k Self) + 'k) {
        todo!()
    }

    /// Lets virtual time pass.
    pub fn sleep(&self, ns: u64) {
        self.kernel.sleep(ns);
    }

    /// Virtual nanoseconds since the machine started.
    pub const fn now(&self) -> u64 {
        self.kernel.now()
    }
}
