//! Holds figures against those that are recorded: a goal that was met is met from then on.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{figures::Row, report};

/// What is recorded of a figure.
#[derive(Deserialize)]
struct Recorded {
    id: String,
    met: Option<bool>,
}

#[derive(Deserialize)]
struct Record {
    rows: Vec<Recorded>,
}

/// The goals that `recorded`, a report as JSON, says are met, and `rows` do not meet: a sentence for each.
///
/// # Errors
///
/// `recorded` is no report, or has none of the figures.
pub fn lost(recorded: &str, rows: &[Row]) -> anyhow::Result<Vec<String>> {
    let record: Record = serde_json::from_str(recorded)?;
    let met: BTreeMap<&str, bool> = record.rows.iter().filter_map(|row| Some((row.id.as_str(), row.met?))).collect();
    let known = rows.iter().filter(|row| met.contains_key(row.id.as_str())).count();
    anyhow::ensure!(known > 0, "none of the {} figures is recorded", rows.len());
    let lost = rows.iter().filter(|row| met.get(row.id.as_str()) == Some(&true) && row.met != Some(true));
    let sentence = |row: &Row| {
        let [what, goal, rust, c, ..] = report::cells(row);
        format!(
            "{what} ({}): {rust}, {} in C; the goal, {goal}, was met",
            row.id,
            if c.is_empty() { "not measured" } else { &c }
        )
    };
    Ok(lost.map(sentence).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::figures::{Group, Unit, Value, join};

    fn rows(rust: f64, c: f64) -> Vec<Row> {
        let value = |value| Value::new(Group::Request, "request/edu/read/atomics", "atomics", Unit::Count, value);
        join("", vec![value(rust)], &[value(c)])
    }

    #[test]
    fn a_goal_that_was_met_and_is_no_more_is_told() {
        let recorded = serde_json::json!({ "rows": rows(1.0, 2.0) }).to_string();
        assert_eq!(lost(&recorded, &rows(1.0, 2.0)).expect("it is a report"), Vec::<String>::new());
        let told = lost(&recorded, &rows(1.5, 2.0)).expect("it is a report");
        assert_eq!(told, ["atomics (request/edu/read/atomics): 1.50, 2 in C; the goal, at most 0.5 of C, was met"]);
    }

    #[test]
    fn a_goal_that_was_not_met_is_none_to_lose() {
        let recorded = serde_json::json!({ "rows": rows(2.0, 2.0) }).to_string();
        assert_eq!(lost(&recorded, &rows(3.0, 2.0)).expect("it is a report"), Vec::<String>::new());
    }

    #[test]
    fn figures_that_nobody_recorded_hold_nothing() {
        assert!(lost(r#"{ "rows": [] }"#, &rows(1.0, 2.0)).is_err());
    }
}
