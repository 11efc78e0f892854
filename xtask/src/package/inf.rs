//! INF files: sections, entries, and the strings that they name.
//!
//! After "General Syntax Rules for INF Files". Lines that go on after a backslash are refused: no INF here has any.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};

/// A line of a section.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Entry {
    /// What stands before the equals sign, if there is one.
    pub key: Option<String>,
    /// The values, which commas separate; without their quotation marks, with their `%tokens%`.
    pub values: Vec<String>,
}

impl Entry {
    /// The value at `index`, empty where the entry has fewer.
    #[must_use]
    pub fn value(&self, index: usize) -> &str {
        self.values.get(index).map_or("", String::as_str)
    }

    fn has_key(&self, key: &str) -> bool {
        self.key.as_ref().is_some_and(|own| own.eq_ignore_ascii_case(key))
    }
}

/// A section of an INF.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Section {
    /// Its name as it stands there; case does not matter.
    pub name: String,
    /// Its lines, without those that hold comments only.
    pub entries: Vec<Entry>,
}

/// An INF, parsed.
#[derive(Clone, Debug)]
pub struct Inf {
    /// The sections in their order.
    pub sections: Vec<Section>,
    strings: BTreeMap<String, String>,
}

impl Inf {
    /// Parses the text of an INF.
    ///
    /// # Errors
    ///
    /// The first line that is no INF syntax.
    pub fn parse(text: &str) -> Result<Self> {
        let mut sections: Vec<Section> = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let parsed = split(line).with_context(|| format!("line {}: {line}", index + 1))?;
            match (parsed, sections.last_mut()) {
                (Line::Nothing, _) => {}
                (Line::Header(name), _) => sections.push(Section { name, entries: Vec::new() }),
                (Line::Entry(entry), Some(section)) => section.entries.push(entry),
                (Line::Entry(_), None) => bail!("line {}: an entry before the first section: {line}", index + 1),
            }
        }
        let strings = sections.iter().filter(|section| section.name.eq_ignore_ascii_case("Strings"));
        let strings = strings.flat_map(|section| &section.entries);
        let strings =
            strings.filter_map(|entry| Some((entry.key.as_ref()?.to_ascii_lowercase(), entry.values.join(","))));
        Ok(Self { strings: strings.collect(), sections })
    }

    /// The entries of the section `name`, if it is there.
    #[must_use]
    pub fn section(&self, name: &str) -> Option<&[Entry]> {
        let section = self.sections.iter().find(|section| section.name.eq_ignore_ascii_case(name))?;
        Some(&section.entries)
    }

    /// The entries of the section `name` whose key is `key`.
    pub fn entries<'a>(&'a self, name: &str, key: &'a str) -> impl Iterator<Item = &'a Entry> {
        self.section(name).unwrap_or_default().iter().filter(move |entry| entry.has_key(key))
    }

    /// The first value of the entry `key` in the section `name`, expanded; `None` where it is absent or names a string that is.
    #[must_use]
    pub fn value(&self, name: &str, key: &str) -> Option<String> {
        self.entries(name, key).next().and_then(|entry| self.expand(entry.value(0)).ok())
    }

    /// Replaces the `%tokens%` of `text` by their strings. Numbers stay: they are directories.
    ///
    /// # Errors
    ///
    /// The token that is not in `[Strings]`.
    pub fn expand(&self, text: &str) -> Result<String> {
        let mut expanded = String::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('%') {
            let Some((token, after)) = after.split_once('%') else { bail!("a single % in {text}") };
            expanded.push_str(before);
            if token.is_empty() {
                expanded.push('%');
            } else if token.bytes().all(|byte| byte.is_ascii_digit()) {
                expanded.extend(["%", token, "%"]);
            } else {
                let string = self.strings.get(&token.to_ascii_lowercase());
                expanded.push_str(string.with_context(|| format!("%{token}% is not in [Strings]"))?);
            }
            rest = after;
        }
        expanded.push_str(rest);
        Ok(expanded)
    }

    /// The names of the sections that hold models, by the decoration of the systems that they are for.
    ///
    /// # Errors
    ///
    /// A name that is not in `[Strings]`.
    pub fn models(&self) -> Result<Vec<(String, String)>> {
        let mut models = Vec::new();
        for entry in self.section("Manufacturer").unwrap_or_default() {
            let name = self.expand(entry.value(0))?;
            models.extend(
                entry.values.iter().skip(1).map(|decoration| (decoration.clone(), format!("{name}.{decoration}"))),
            );
            if entry.values.len() == 1 {
                models.push((String::new(), name));
            }
        }
        Ok(models)
    }
}

enum Line {
    Nothing,
    Header(String),
    Entry(Entry),
}

/// Takes a line apart.
fn split(line: &str) -> Result<Line> {
    let line = line.trim();
    if let Some(header) = line.strip_prefix('[') {
        let (name, _) = header.split_once(']').context("a section's name without its end")?;
        return Ok(Line::Header(name.trim().to_owned()));
    }
    let mut key = None;
    let mut values = Vec::new();
    let mut start = 0;
    let mut end = line.len();
    let mut is_quoted = false;
    for (at, character) in line.char_indices() {
        match character {
            '"' => is_quoted = !is_quoted,
            ';' if !is_quoted => {
                end = at;
                break;
            }
            '=' if !is_quoted && key.is_none() && values.is_empty() => {
                key = Some(unquote(&line[start..at]));
                start = at + 1;
            }
            ',' if !is_quoted => {
                values.push(unquote(&line[start..at]));
                start = at + 1;
            }
            _ => {}
        }
    }
    ensure!(!is_quoted, "a quotation mark without its partner");
    let last = line[start..end].trim();
    ensure!(!last.ends_with('\\'), "a line that goes on after a backslash");
    if key.is_none() && values.is_empty() && last.is_empty() {
        return Ok(Line::Nothing);
    }
    values.push(unquote(last));
    Ok(Line::Entry(Entry { key, values }))
}

/// A value without the blanks and the quotation marks around it; two of these within are one.
fn unquote(value: &str) -> String {
    let value = value.trim();
    let inner = value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    inner.map_or_else(|| value.to_owned(), |inner| inner.replace("\"\"", "\""))
}

#[cfg(test)]
mod tests {
    use super::Inf;

    fn inf(text: &str) -> Inf {
        Inf::parse(text).unwrap_or_else(|error| panic!("{error:#}"))
    }

    #[test]
    fn commas_semicolons_and_equals_signs_in_quotation_marks_are_text() {
        let inf = inf("[A]\nHKR,,Name , \"a;b,c=d\" ; comment\n; [B]\n");

        let entry = &inf.section("a").unwrap_or_default()[0];
        assert_eq!(
            (entry.key.clone(), entry.values.clone()),
            (None, ["HKR", "", "Name", "a;b,c=d"].map(str::to_owned).into())
        );
        assert_eq!(inf.sections.len(), 1);
    }

    #[test]
    fn strings_are_put_in_whatever_their_case_and_directories_stay() {
        let inf = inf("[Strings]\nName = \"a \"\"b\"\"\"\n");

        assert_eq!(inf.expand(r"%13%\x %NAME% 100%%").ok().as_deref(), Some(r#"%13%\x a "b" 100%"#));
        assert!(inf.expand("%missing%").is_err());
        assert!(inf.expand("100%").is_err());
    }

    #[test]
    fn models_are_found_by_their_decoration() {
        let inf = inf("[Manufacturer]\n%Maker% = Models, NTamd64, NTarm64.10.0...19041\n");

        let models = inf.models().unwrap_or_default();
        assert_eq!(models[0], ("NTamd64".to_owned(), "Models.NTamd64".to_owned()));
        assert_eq!(models[1].1, "Models.NTarm64.10.0...19041");
    }

    #[test]
    fn what_is_no_inf_is_refused_with_its_line() {
        for (text, words) in [
            ("[A]\nx = \"y\n", "line 2"),
            ("x = y\n", "before the first section"),
            ("[A\n", "without its end"),
            ("[A]\nx = y, \\\n", "goes on"),
        ] {
            let error = Inf::parse(text).expect_err("that is no INF");
            assert!(format!("{error:#}").contains(words), "{error:#}");
        }
    }
}
