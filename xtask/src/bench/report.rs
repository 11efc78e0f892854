//! Everything that was measured, as a table.

use std::fmt;

use comfy_table::{CellAlignment, Table, presets::UTF8_BORDERS_ONLY};
use serde::Serialize;

use super::{
    Figure,
    curves::Curve,
    figures::{Group, Row, Unit},
};

/// Everything that was measured.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// Drivers side by side.
    pub rows: Vec<Row>,
    /// What grows with the processors.
    pub curves: Vec<Curve>,
    /// The host.
    pub host: Vec<Figure>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for group in Group::ALL {
            let rows: Vec<&Row> = self.rows.iter().filter(|row| row.group == group).collect();
            if !rows.is_empty() {
                writeln!(f, "{}\n{}", group.title(), side_by_side(&rows))?;
            }
        }
        if !self.curves.is_empty() {
            writeln!(f, "Over the number of processors\n{}", over_processors(&self.curves))?;
        }
        if self.host.is_empty() { Ok(()) } else { writeln!(f, "{}", of_host(&self.host)) }
    }
}

fn side_by_side(rows: &[&Row]) -> Table {
    let mut table = Table::new();
    let headings = ["figure", "goal", "Rust", "C", "ratio", "met"];
    table.load_style(UTF8_BORDERS_ONLY).set_header(headings);
    for row in rows {
        table.add_row(cells(row));
    }
    for column in 2..5 {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

/// A row of the table.
#[must_use]
pub fn cells(row: &Row) -> [String; 6] {
    let floor = if row.id.starts_with("floor/") { "floor: " } else { "" };
    let met = row.met.map_or("", |met| if met { "yes" } else { "NO" });
    [
        format!("{floor}{}", row.what),
        row.goal.map(|goal| goal.to_string()).unwrap_or_default(),
        number(row.rust, row.unit),
        row.c.map(|c| number(c, row.unit)).unwrap_or_default(),
        row.ratio().map(|ratio| format!("{ratio:.2}")).unwrap_or_default(),
        met.to_owned(),
    ]
}

/// A figure with its unit.
#[must_use]
pub fn number(value: f64, unit: Unit) -> String {
    match unit {
        Unit::Count => digits(value),
        Unit::Bytes => format!("{} B", digits(value)),
        Unit::Nanoseconds => format!("{} us", digits(value / 1000.0)),
        Unit::PerSecond => format!("{} /s", digits(value.round())),
    }
}

/// A number with its thousands apart, and with two decimals where it is no whole one.
fn digits(value: f64) -> String {
    let is_whole = (value - value.round()).abs() < 0.005;
    let text = if is_whole { format!("{value:.0}") } else { format!("{value:.2}") };
    let (whole, fraction) = text.split_once('.').map_or((text.as_str(), ""), |(whole, fraction)| (whole, fraction));
    let mut grouped = String::new();
    for (position, digit) in whole.chars().enumerate() {
        let left = whole.len() - position;
        if position > 0 && left.is_multiple_of(3) && !grouped.ends_with('-') {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    if fraction.is_empty() { grouped } else { format!("{grouped}.{fraction}") }
}

fn over_processors(curves: &[Curve]) -> Table {
    let mut table = Table::new();
    let sizes =
        curves.first().into_iter().flat_map(|curve| &curve.points).map(|(processors, _)| processors.to_string());
    let headings: Vec<String> = ["figure".to_owned(), "unit".to_owned()].into_iter().chain(sizes).collect();
    table.load_style(UTF8_BORDERS_ONLY).set_header(headings);
    for Curve { what, unit, points } in curves {
        let values = points.iter().map(|(_, value)| number(*value, Unit::Count));
        table.add_row([what.clone(), (*unit).to_owned()].into_iter().chain(values).collect::<Vec<String>>());
    }
    table
}

fn of_host(figures: &[Figure]) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_BORDERS_ONLY).set_header(["measure", "goal", "here"]);
    for Figure { what, goal, measured } in figures {
        table.add_row([what, *goal, measured]);
    }
    if let Some(column) = table.column_mut(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_at_a_glance() {
        assert_eq!(number(1_234_567.0, Unit::Count), "1,234,567");
        assert_eq!(number(999.5, Unit::Bytes), "999.50 B");
        assert_eq!(number(1_500.0, Unit::Nanoseconds), "1.50 us");
        assert_eq!(number(0.0, Unit::Count), "0");
    }
}
