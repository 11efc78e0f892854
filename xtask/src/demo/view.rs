//! What is shown while the demo runs, and what is kept of it for the picture.

use std::{
    cell::RefCell,
    io::{self, IsTerminal},
    time::Duration,
};

use anstyle::{AnsiColor, Style};
use indicatif::{ProgressBar, ProgressStyle};
use workload::Counts;

const HEADLINE: Style = AnsiColor::Cyan.on_default().bold();
const ADDED: Style = AnsiColor::Green.on_default();
const HELD: Style = AnsiColor::Yellow.on_default();
const BROKEN: Style = AnsiColor::Red.on_default().bold();

/// Words in a line, and the style of a line that has them.
const STYLES: [(&str, Style); 6] = [
    ("AddComplete", ADDED),
    ("memory:", ADDED),
    ("buffer pool:", ADDED),
    ("QUERY_STOP", HELD),
    ("START", HELD),
    ("requests flow", HELD),
];

/// A live view on a terminal, plain lines elsewhere, nothing where it is to be quiet.
pub struct View {
    bar: Option<ProgressBar>,
    quiet: bool,
    shown: RefCell<String>,
}

impl View {
    /// The view for where the program's output goes.
    #[must_use]
    pub fn new(quiet: bool, stages: u64) -> Self {
        let live = !quiet && io::stderr().is_terminal() && io::stdout().is_terminal();
        Self { bar: live.then(|| progress_bar(stages)), quiet, shown: RefCell::default() }
    }

    /// Begins a stage.
    pub fn stage(&self, what: &str) {
        self.show(&format!("{HEADLINE}{what}{HEADLINE:#}"));
        if let Some(bar) = &self.bar {
            bar.inc(1);
        }
    }

    /// Shows how the requests are doing.
    pub fn progress(&self, counts: Counts) {
        if let Some(bar) = &self.bar {
            bar.set_message(format!("{} of {} requests completed", counts.completed, counts.submitted));
        }
    }

    /// Shows an event.
    pub fn event(&self, line: &str) {
        let style = STYLES.iter().find(|(words, _)| line.contains(words)).map_or_else(Style::new, |(_, style)| *style);
        self.show(&format!("{style}{line}{style:#}"));
    }

    /// Shows the tables.
    pub fn tables(&self, tables: &str) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        self.show(&format!("\n{tables}"));
    }

    /// Says that a promise was broken, also where it is to be quiet.
    pub fn broken(sentence: &str) {
        anstream::eprintln!("{BROKEN}broken promise:{BROKEN:#} {sentence}");
    }

    fn show(&self, text: &str) {
        if self.quiet {
            return;
        }
        match &self.bar {
            Some(bar) => bar.suspend(|| anstream::println!("{text}")),
            None => anstream::println!("{text}"),
        }
        let mut shown = self.shown.borrow_mut();
        shown.push_str(text);
        shown.push('\n');
    }

    /// What was shown, as a picture.
    #[must_use]
    pub fn picture(&self) -> String {
        anstyle_svg::Term::new().render_svg(&self.shown.borrow())
    }
}

fn progress_bar(stages: u64) -> ProgressBar {
    let style =
        ProgressStyle::with_template("{bar:24} {pos}/{len} {msg}").unwrap_or_else(|_| ProgressStyle::default_bar());
    let bar = ProgressBar::new(stages).with_style(style);
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}
