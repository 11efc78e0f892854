//! `cargo xtask fuzz`: lets the kept sequences of requests grow by those that reach more of the driver.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow};
use clap::Args;
use comfy_table::{CellAlignment, Table, presets::UTF8_BORDERS_ONLY};
use ntlab::{
    config::Config,
    machine::{Machine, System},
};
use workload::fuzz::{Corpus, Fuzz, Reach};

use crate::campaign;

/// Requests of one machine.
const REQUESTS: u64 = 10_000;

/// Send random control requests, and keep those that reach basic blocks of hotadd.sys which no kept one reaches, in tests/corpus.
#[derive(Args, Debug)]
pub struct Options {
    /// How many machines get 10,000 requests each; 0 only says what the kept sequences reach.
    #[arg(long, default_value_t = 20)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    first: u64,
    /// Print where the blocks begin that are not reached.
    #[arg(long)]
    missing: bool,
}

/// Where the kept sequences are.
#[must_use]
pub fn corpus_folder() -> PathBuf {
    kit::root().join("tests/corpus")
}

/// Runs the command.
///
/// # Errors
///
/// A promise that was broken, or a corpus that cannot be read or written.
pub fn run(options: &Options, sys: &Path) -> Result<()> {
    let folder = corpus_folder();
    let mut corpus = Corpus::load(&folder)?;
    let before = corpus.0.len();
    for seed in options.first..options.first + options.seeds {
        let fuzz = Fuzz { requests: REQUESTS, seed };
        let found = on_machine(seed, |system| fuzz.play(system, sys, &corpus))?;
        for sequence in found.new {
            corpus.0.insert(format!("new {}", corpus.0.len()), sequence);
        }
    }
    if corpus.0.len() > before {
        let sequences = corpus.0.into_values().collect();
        corpus = on_machine(0, |system| Corpus::of(system, sys, sequences))?;
        corpus.store(&folder)?;
    }
    let reach = on_machine(0, |system| corpus.reach(system, sys))?;
    println!("{}", table(&reach));
    println!("{} sequences are kept, {before} were.", corpus.0.len());
    if options.missing {
        reach.missing.iter().for_each(|place| println!("not reached: {place}"));
    }
    Ok(())
}

fn on_machine<T>(seed: u64, scenario: impl FnOnce(&System) -> Result<T, String>) -> Result<T> {
    let config = Config { note_blocks: true, ..campaign::machine(2).with_seed(seed) };
    let outcome = Machine::new(config).context("the machine makes sense")?.run(scenario);
    let result = outcome.result.map_err(|report| anyhow!("{report}"))?;
    result.map_err(|broken| anyhow!("seed {seed}: {broken}"))
}

fn table(reach: &Reach) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_BORDERS_ONLY).set_header(["source file", "basic blocks reached", "of"]);
    for (file, (reached, all)) in reach.files.iter().filter(|(_, (reached, _))| *reached > 0) {
        table.add_row([file.clone(), reached.to_string(), all.to_string()]);
    }
    for column in [1, 2] {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}
