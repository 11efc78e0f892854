//! What the demo is asked to do, and whether that makes sense.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use ntlab::{config::Config, pnp};

/// Hot-add processors and memory to a simulated machine that runs hotadd.sys under load.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Decides everything that is left to chance; without it, one is drawn from the clock and printed.
    #[arg(long)]
    pub seed: Option<u64>,
    /// Processors active at the start.
    #[arg(long, default_value_t = Options::default().processors)]
    pub processors: u32,
    /// Processors at the end; all that are missing are added one by one.
    #[arg(long, default_value_t = Options::default().max)]
    pub max: u32,
    /// Processor groups, each of the same size; the last may be smaller.
    #[arg(long, default_value_t = Options::default().groups)]
    pub groups: u32,
    /// GiB of memory at the start; two modules of 2 GiB are added.
    #[arg(long, default_value_t = Options::default().memory)]
    pub memory: u64,
    /// Requests that are always in flight.
    #[arg(long, default_value_t = Options::default().requests)]
    pub requests: u32,
    /// What is behind the edu device: the lab's model, or the real one in a QEMU that is started for it. A run with QEMU need not be the same
    /// every time.
    #[arg(long, value_enum, default_value_t = Options::default().hardware)]
    pub hardware: Hardware,
    /// Write the results to this file as JSON.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write a recording of the run to this file, of which `hotaddctl report` makes a page and a Perfetto trace.
    #[arg(long, value_name = "FILE")]
    pub record: Option<PathBuf>,
    /// Write what is printed to this file as a picture (SVG).
    #[arg(long, value_name = "FILE", conflicts_with = "quiet")]
    pub picture: Option<PathBuf>,
    /// Print nothing but broken promises.
    #[arg(long)]
    pub quiet: bool,
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

/// The most requests in flight.
const MOST_REQUESTS: u32 = workload::MOST_LANES;

impl Default for Options {
    fn default() -> Self {
        Self {
            seed: None,
            processors: 2,
            max: 8,
            groups: 1,
            memory: 4,
            requests: 64,
            hardware: Hardware::Model,
            json: None,
            record: None,
            picture: None,
            quiet: false,
        }
    }
}

impl Options {
    /// The machine that was asked for.
    ///
    /// # Errors
    ///
    /// One line that says which options contradict each other.
    pub fn machine(&self, seed: u64) -> Result<Config, String> {
        let Self { processors, max, groups, memory, requests, .. } = *self;
        if processors > max {
            return Err(format!("--processors {processors} is more than --max {max}"));
        }
        if groups == 0 || groups > max {
            return Err(format!("--groups {groups} cannot be made of --max {max} processors"));
        }
        if !(1..=MOST_REQUESTS).contains(&requests) {
            return Err(format!("--requests {requests}: from 1 to {MOST_REQUESTS}"));
        }
        let bytes = memory
            .checked_mul(1 << 30)
            .filter(|bytes| *bytes <= 1 << 46)
            .ok_or_else(|| format!("--memory {memory}: at most 65536 GiB"))?;
        let repeat = Some(self.command(seed));
        let keep_timeline = self.record.is_some();
        let config = Config { seed, memory: bytes, repeat, keep_timeline, ..grouped(processors, max, groups)? };
        config.check().map_err(|error| error.to_string())?;
        Ok(config)
    }
}

impl Options {
    /// The command line of this demo with `seed`, whatever files it writes.
    fn command(&self, seed: u64) -> String {
        let Self { processors, max, groups, memory, requests, hardware, .. } = self;
        let hardware = match hardware {
            Hardware::Model => "",
            Hardware::Qemu => " --hardware qemu",
        };
        format!(
            "cargo xtask demo --seed {seed} --processors {processors} --max {max} --groups {groups} --memory {memory} --requests {requests}{hardware}"
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
        options: Options,
    }

    fn refusal(arguments: &[&str]) -> String {
        let line = Line::try_parse_from([&["demo"], arguments].concat()).expect("these parse");
        line.options.machine(1).expect_err("these contradict each other")
    }

    #[test]
    fn options_that_contradict_each_other_are_refused_in_one_line() {
        assert_eq!(refusal(&["--processors", "9"]), "--processors 9 is more than --max 8");
        assert_eq!(refusal(&["--groups", "9"]), "--groups 9 cannot be made of --max 8 processors");
        assert_eq!(refusal(&["--groups", "0"]), "--groups 0 cannot be made of --max 8 processors");
        assert_eq!(refusal(&["--max", "9", "--groups", "4"]), "--groups 4 of 3 processors need 10, --max is 9");
        assert_eq!(refusal(&["--requests", "0"]), format!("--requests 0: from 1 to {MOST_REQUESTS}"));
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
        let config = line.options.machine(12).expect("these make a machine");
        let command = config.repeat.clone().expect("reports have a command");
        let words = command.strip_prefix("cargo xtask ").expect("it is a command of cargo's").split(' ');
        let again = Line::try_parse_from(words).expect("the command parses").options;
        assert_eq!(again.seed, Some(12));
        assert_eq!(again.machine(12), Ok(config));
        assert_eq!(again.requests, 5);
    }

    #[test]
    fn the_defaults_are_two_of_eight_processors_and_four_gib() {
        let line = Line::try_parse_from(["demo"]).expect("the defaults parse");
        let config = line.options.machine(7).expect("the defaults make a machine");
        assert_eq!((config.processors, config.maximum_processors(), config.memory, config.seed), (2, 8, 4 << 30, 7));
    }
}
