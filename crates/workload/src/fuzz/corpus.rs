//! Sequences that are kept because of the driver's basic blocks that they reach.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
};

use ntlab::{exec::BlockStart, machine::System};
use thiserror::Error;

use super::{Bench, Sequence, end, start};

/// The most sequences that are tried to make one shorter.
const TRIES: usize = 300;

/// Sequences by the name of their file.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Corpus(pub BTreeMap<String, Sequence>);

/// Why a corpus could not be read or written.
#[derive(Debug, Error)]
pub enum CorpusError {
    /// The host's error.
    #[error("{0}: {1}")]
    File(PathBuf, io::Error),
    /// A file holds no sequence.
    #[error("{0}: {1}")]
    Content(PathBuf, serde_json::Error),
}

impl Corpus {
    /// The sequences in the files of a folder.
    ///
    /// # Errors
    ///
    /// The first file that cannot be read.
    pub fn load(folder: &Path) -> Result<Self, CorpusError> {
        let mut all = BTreeMap::new();
        let file = |error| CorpusError::File(folder.to_owned(), error);
        for entry in fs::read_dir(folder).map_err(file)? {
            let path = entry.map_err(file)?.path();
            let text = fs::read_to_string(&path).map_err(|error| CorpusError::File(path.clone(), error))?;
            let sequence = serde_json::from_str(&text).map_err(|error| CorpusError::Content(path.clone(), error))?;
            let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            all.insert(name, sequence);
        }
        Ok(Self(all))
    }

    /// Makes the files of a folder those of this corpus.
    ///
    /// # Errors
    ///
    /// The first file that cannot be written or removed.
    pub fn store(&self, folder: &Path) -> Result<(), CorpusError> {
        let before = Self::load(folder)?;
        let path = |name: &String| folder.join(name).with_extension("json");
        for (name, sequence) in &self.0 {
            let text = sequence.to_text().map_err(|error| CorpusError::Content(path(name), error))?;
            fs::write(path(name), text).map_err(|error| CorpusError::File(path(name), error))?;
        }
        for name in before.0.keys().filter(|name| !self.0.contains_key(*name)) {
            fs::remove_file(path(name)).map_err(|error| CorpusError::File(path(name), error))?;
        }
        Ok(())
    }

    /// The sequences.
    pub fn sequences(&self) -> impl Iterator<Item = &Sequence> {
        self.0.values()
    }

    /// Those of `sequences` that reach blocks which no shorter one reaches, each as short as it can be. Plays them on a machine that notes
    /// blocks.
    ///
    /// # Errors
    ///
    /// The promises that were broken.
    pub fn of(system: &System, sys: &Path, mut sequences: Vec<Sequence>) -> Result<Self, String> {
        start(system, sys);
        let bench = Bench::new(system).map_err(|status| format!("a device does not open: {status}"))?;
        // Once for all: what only happens the first time is nobody's.
        for sequence in &sequences {
            bench.play(sequence);
        }
        let play = |sequence: &Sequence| {
            system.forget_driver_blocks();
            bench.play(sequence);
            system.driver_blocks()
        };
        // What is reached twice is no matter of chance.
        let reach = |sequence: &Sequence| &play(sequence) & &play(sequence);
        let (mut covered, mut all) = (BTreeSet::new(), BTreeMap::new());
        sequences.sort_by_key(Sequence::length);
        for sequence in sequences {
            let new: BTreeSet<BlockStart> = reach(&sequence).difference(&covered).copied().collect();
            if !new.is_empty() {
                let sequence = shorten(sequence, &new, reach);
                covered.extend(reach(&sequence));
                all.insert(format!("{:03}", all.len()), sequence);
            }
        }
        let broken = [bench.tally().broken, {
            drop(bench);
            end(system)
        }]
        .concat();
        if broken.is_empty() { Ok(Self(all)) } else { Err(broken.join("; ")) }
    }
}

/// How many of the driver's basic blocks the requests of a corpus reach, by the source file.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Reach {
    /// For each file of the driver and its building blocks, how many blocks were reached, and how many there are.
    pub files: BTreeMap<String, (usize, usize)>,
    /// Where each block begins that was not reached.
    pub missing: Vec<String>,
}

impl Corpus {
    /// What its requests reach on a machine that notes blocks, between the start of the devices and their end.
    ///
    /// # Errors
    ///
    /// The promises that were broken.
    pub fn reach(&self, system: &System, sys: &Path) -> Result<Reach, String> {
        start(system, sys);
        let bench = Bench::new(system).map_err(|status| format!("a device does not open: {status}"))?;
        system.forget_driver_blocks();
        self.sequences().for_each(|sequence| bench.play(sequence));
        let reached = system.driver_blocks();
        let mut reach = Reach::default();
        for (block, frames) in system.known_driver_blocks() {
            let Some((file, line)) =
                frames.iter().find_map(|frame| frame.line.as_ref().filter(|(file, _)| is_ours(file)))
            else {
                continue;
            };
            let counts = reach.files.entry(file.clone()).or_default();
            counts.1 += 1;
            if reached.contains(&block) {
                counts.0 += 1;
            } else {
                reach.missing.push(format!("{file}:{line}"));
            }
        }
        let broken = [bench.tally().broken, {
            drop(bench);
            end(system)
        }]
        .concat();
        if broken.is_empty() { Ok(reach) } else { Err(broken.join("; ")) }
    }
}

/// Whether a source file is the driver's, and not Rust's.
fn is_ours(file: &str) -> bool {
    let folders = ["core/", "alloc/", "library/", "ptr/", "num/", "iter/", "slice/", "sync/", "ops/"];
    !folders.iter().any(|folder| file.contains(folder))
}

/// The shortest sequence found that reaches these blocks.
fn shorten(
    mut sequence: Sequence,
    blocks: &BTreeSet<BlockStart>,
    reach: impl Fn(&Sequence) -> BTreeSet<BlockStart>,
) -> Sequence {
    let mut tries = 0;
    loop {
        let shorter = sequence.shorter().into_iter().find(|shorter| {
            tries += 1;
            tries < TRIES && blocks.is_subset(&reach(shorter))
        });
        match shorter {
            Some(shorter) => sequence = shorter,
            None => return sequence,
        }
    }
}
