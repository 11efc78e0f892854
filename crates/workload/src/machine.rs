//! The machine that the demo and the operator's tool run in the lab, from the command line.

use std::time::{SystemTime, UNIX_EPOCH};

use clap::{Args, ValueEnum};
use ntlab::{config::Config, pnp};

use crate::MOST_LANES;

/// A machine, and how busy it is.
#[derive(Args, Clone, Debug)]
pub struct MachineOptions {
    /// Decides everything that is left to chance; without it, one is drawn from the clock and printed.
    #[arg(long, global = true)]
    pub seed: Option<u64>,
    /// Processors active at the start.
    #[arg(long, global = true, default_value_t = Self::default().processors)]
    pub processors: u32,
    /// Processors at the end; all that are missing are added one by one.
    #[arg(long, global = true, default_value_t = Self::default().max)]
    pub max: u32,
    /// Processor groups, each of the same size; the last may be smaller.
    #[arg(long, global = true, default_value_t = Self::default().groups)]
    pub groups: u32,
    /// GiB of memory at the start; two modules of 2 GiB are added.
    #[arg(long, global = true, default_value_t = Self::default().memory)]
    pub memory: u64,
    /// Requests that are always in flight.
    #[arg(long, global = true, default_value_t = Self::default().requests)]
    pub requests: u32,
    /// What is behind the edu device: the lab's model, or the real one in a QEMU that is started for it. A run with QEMU need not be the same
    /// every time.
    #[arg(long, global = true, value_enum, default_value_t = Self::default().hardware)]
    pub hardware: Hardware,
}

/// What is behind the edu device.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hardware {
    /// The lab's model.
    Model,
    /// QEMU's own.
    Qemu,
}

impl From<Hardware> for pnp::Hardware {
    fn from(hardware: Hardware) -> Self {
        match hardware {
            Hardware::Model => Self::Model,
            Hardware::Qemu => Self::Qemu,
        }
    }
}

impl Default for MachineOptions {
    fn default() -> Self {
        Self { seed: None, processors: 2, max: 8, groups: 1, memory: 4, requests: 64, hardware: Hardware::Model }
    }
}

impl MachineOptions {
    /// The seed, drawn from the clock where none was given.
    #[must_use]
    pub fn seed(&self) -> u64 {
        self.seed.unwrap_or_else(|| {
            let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            u64::from(since_1970.subsec_nanos()) ^ since_1970.as_secs()
        })
    }

    /// The machine that was asked for. `command` is what these options follow in a command that repeats a run.
    ///
    /// # Errors
    ///
    /// One line that says which options contradict each other.
    pub fn config(&self, seed: u64, command: &str) -> Result<Config, String> {
        let Self { processors, max, groups, memory, requests, .. } = *self;
        if processors > max {
            return Err(format!("--processors {processors} is more than --max {max}"));
        }
        if groups == 0 || groups > max {
            return Err(format!("--groups {groups} cannot be made of --max {max} processors"));
        }
        if !(1..=MOST_LANES).contains(&requests) {
            return Err(format!("--requests {requests}: from 1 to {MOST_LANES}"));
        }
        let bytes = memory
            .checked_mul(1 << 30)
            .filter(|bytes| *bytes <= 1 << 46)
            .ok_or_else(|| format!("--memory {memory}: at most 65536 GiB"))?;
        let repeat = Some(format!("{command} {}", self.words(seed)));
        let config = Config { seed, memory: bytes, repeat, ..grouped(processors, max, groups)? };
        config.check().map_err(|error| error.to_string())?;
        Ok(config)
    }

    /// These options on a command line, with `seed`.
    fn words(&self, seed: u64) -> String {
        let Self { processors, max, groups, memory, requests, hardware, .. } = self;
        let hardware = match hardware {
            Hardware::Model => "",
            Hardware::Qemu => " --hardware qemu",
        };
        format!(
            "--seed {seed} --processors {processors} --max {max} --groups {groups} --memory {memory} --requests {requests}{hardware}"
        )
    }
}

fn grouped(processors: u32, max: u32, groups: u32) -> Result<Config, String> {
    let size = max.div_ceil(groups);
    let config = Config::grouped(processors, max, size).map_err(|error| match groups {
        1 => format!("--max {max} needs more than --groups 1: {error}"),
        _ => error.to_string(),
    })?;
    let made = config.groups.len();
    if made != groups as usize {
        return Err(format!("--groups {groups} of {size} processors need {}, --max is {max}", size * (groups - 1) + 1));
    }
    Ok(config)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: MachineOptions,
    }

    fn refusal(arguments: &[&str]) -> String {
        let line = Line::try_parse_from([&["demo"], arguments].concat()).expect("these parse");
        line.options.config(1, "demo").expect_err("these contradict each other")
    }

    #[test]
    fn options_that_contradict_each_other_are_refused_in_one_line() {
        assert_eq!(refusal(&["--processors", "9"]), "--processors 9 is more than --max 8");
        assert_eq!(refusal(&["--groups", "9"]), "--groups 9 cannot be made of --max 8 processors");
        assert_eq!(refusal(&["--groups", "0"]), "--groups 0 cannot be made of --max 8 processors");
        assert_eq!(refusal(&["--max", "9", "--groups", "4"]), "--groups 4 of 3 processors need 10, --max is 9");
        assert_eq!(refusal(&["--requests", "0"]), format!("--requests 0: from 1 to {MOST_LANES}"));
        assert_eq!(refusal(&["--memory", "18446744073709551615"]), "--memory 18446744073709551615: at most 65536 GiB");
        assert!(refusal(&["--max", "65"]).starts_with("--max 65 needs more than --groups 1: "));
        assert!(refusal(&["--processors", "0"]).contains("at least one active processor"));
        assert!(refusal(&["--memory", "0"]).contains("64 MiB"));
    }

    #[test]
    fn the_command_in_a_report_makes_the_same_machine() {
        let arguments =
            ["demo", "--processors", "3", "--max", "9", "--groups", "3", "--memory", "2", "--requests", "5"];
        let line = Line::try_parse_from(arguments).expect("these parse");
        let config = line.options.config(12, "demo").expect("these make a machine");
        let command = config.repeat.clone().expect("reports have a command");
        let again = Line::try_parse_from(command.split(' ')).expect("the command parses").options;
        assert_eq!(again.seed, Some(12));
        assert_eq!(again.config(12, "demo"), Ok(config));
        assert_eq!(again.requests, 5);
    }

    #[test]
    fn the_defaults_are_two_of_eight_processors_and_four_gib() {
        let line = Line::try_parse_from(["demo"]).expect("the defaults parse");
        let config = line.options.config(7, "demo").expect("the defaults make a machine");
        assert_eq!((config.processors, config.maximum_processors(), config.memory, config.seed), (2, 8, 4 << 30, 7));
    }
}
