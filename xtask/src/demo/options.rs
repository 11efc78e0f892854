//! What the demo is asked to do.

use std::path::PathBuf;

use clap::Args;
use workload::MachineOptions;

/// Hot-add processors and memory to a simulated machine that runs hotadd.sys under load.
#[derive(Args, Clone, Debug, Default)]
pub struct Options {
    /// The machine.
    #[command(flatten)]
    pub machine: MachineOptions,
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
