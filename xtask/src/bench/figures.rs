//! Figures of drivers, side by side, and whether they are what they are meant to be.

use std::{collections::BTreeMap, path::PathBuf};

use serde::Serialize;

use super::goals::{self, Goal};
use crate::drivers::Driver;

/// A driver that was built.
#[derive(Clone, Debug)]
pub struct Built {
    /// Which.
    pub driver: Driver,
    /// Its image.
    pub sys: PathBuf,
}

/// What figures are about.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Group {
    /// One request, from the dispatch routine on.
    Request,
    /// What processors share.
    Lines,
    /// A rebalance.
    Hold,
    /// A processor that joins.
    Processor,
    /// Bytes.
    Memory,
    /// The image.
    Image,
    /// In host time.
    Rate,
}

impl Group {
    /// All of them, in the order of the table.
    pub const ALL: [Self; 7] =
        [Self::Request, Self::Lines, Self::Hold, Self::Processor, Self::Memory, Self::Image, Self::Rate];

    /// Its heading.
    #[must_use]
    pub const fn title(self) -> &'static str {
        match self {
            Self::Request => "One request",
            Self::Lines => "Cache lines written by more than one processor",
            Self::Hold => "A hold",
            Self::Processor => "A processor joins",
            Self::Memory => "Memory",
            Self::Image => "The image",
            Self::Rate => "In host time",
        }
    }
}

/// What a figure counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unit {
    /// Instructions, calls, lines.
    Count,
    /// Bytes.
    Bytes,
    /// Virtual nanoseconds.
    Nanoseconds,
    /// A number a second of host time.
    PerSecond,
}

/// A figure of one driver.
#[derive(Clone, PartialEq, Debug)]
pub struct Value {
    /// What it is about.
    pub group: Group,
    /// Its name, the same for every driver: words with slashes between them.
    pub id: String,
    /// In words.
    pub what: String,
    /// What it counts.
    pub unit: Unit,
    /// How many.
    pub value: f64,
    /// What it is made of: kernel calls by name.
    pub parts: BTreeMap<String, f64>,
}

impl Value {
    /// A figure that is not taken apart.
    #[must_use]
    pub fn new(group: Group, id: impl Into<String>, what: impl Into<String>, unit: Unit, value: f64) -> Self {
        Self { group, id: id.into(), what: what.into(), unit, value, parts: BTreeMap::new() }
    }

    /// The same, made of these.
    #[must_use]
    pub fn of(self, parts: BTreeMap<String, f64>) -> Self {
        Self { parts, ..self }
    }
}

/// A figure of a driver in Rust beside that of the driver in C that does the same.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Row {
    /// What it is about.
    pub group: Group,
    /// Its name.
    pub id: String,
    /// In words.
    pub what: String,
    /// What it counts.
    pub unit: Unit,
    /// The driver in Rust.
    pub rust: f64,
    /// The driver in C, where that was measured.
    pub c: Option<f64>,
    /// What it must be.
    pub goal: Option<Goal>,
    /// Whether it is; not known where the other driver was not measured.
    pub met: Option<bool>,
    /// What the figure of the driver in Rust is made of.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub rust_parts: BTreeMap<String, f64>,
    /// What that of the driver in C is made of.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub c_parts: BTreeMap<String, f64>,
}

impl Row {
    /// The first over the second; none where that says nothing.
    #[must_use]
    pub fn ratio(&self) -> Option<f64> {
        self.c.filter(|c| *c != 0.0).map(|c| self.rust / c)
    }
}

/// Puts the figures of two drivers side by side. `prefix` goes before the names: two pairs may have the same.
#[must_use]
pub fn join(prefix: &str, rust: Vec<Value>, c: &[Value]) -> Vec<Row> {
    let row = |value: Value| {
        let other = c.iter().find(|other| other.id == value.id);
        let id = format!("{prefix}{}", value.id);
        let goal = goals::of(&id);
        let c = other.map(|other| other.value);
        let met = goal.and_then(|goal| goal.is_met(value.value, c));
        let c_parts = other.map(|other| other.parts.clone()).unwrap_or_default();
        let Value { group, what, unit, value, parts, .. } = value;
        Row { group, id, what, unit, rust: value, c, goal, met, rust_parts: parts, c_parts }
    };
    rust.into_iter().map(row).collect()
}
