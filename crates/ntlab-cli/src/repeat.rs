//! Command lines that repeat what a report tells.

use std::{env, path::Path};

/// A command line of this program, to be pasted into a shell.
#[derive(Debug)]
pub struct Line {
    words: Vec<String>,
}

impl Line {
    /// A command, called as this program was.
    pub fn new(command: &str) -> Self {
        // Cargo says so to what it runs.
        let program = if env::var_os("CARGO").is_some() { vec!["cargo", "ntlab"] } else { vec!["ntlab"] };
        Self { words: program.into_iter().chain([command]).map(str::to_owned).collect() }
    }

    /// With a word.
    pub fn word(mut self, word: impl Into<String>) -> Self {
        self.words.push(word.into());
        self
    }

    /// With a file.
    pub fn file(self, path: &Path) -> Self {
        self.word(path.display().to_string())
    }

    /// With an option and its value.
    pub fn option(self, name: &str, value: &impl ToString) -> Self {
        self.word(name).word(value.to_string())
    }

    /// What is pasted. A file whose name no shell takes is left as it is.
    pub fn text(&self) -> String {
        let words = self.words.iter().map(String::as_str);
        shlex::try_join(words).unwrap_or_else(|_| self.words.join(" "))
    }
}
