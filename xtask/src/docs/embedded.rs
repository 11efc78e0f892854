//! Documents that show sources: a comment with a path, `<!-- PATH -->` or `<!-- PATH: FUNCTION -->`, stands before each
//! block of code that is one.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

const FENCE: &str = "```";

/// The document at `path` with the sources in it as they are now.
///
/// # Errors
///
/// A file cannot be read, or has no such function.
pub fn document(root: &Path, path: &str) -> Result<String> {
    let text = fs::read_to_string(root.join(path)).with_context(|| format!("reading {path}"))?;
    let mut renewed = String::new();
    let mut lines = text.split_inclusive('\n').peekable();
    while let Some(line) = lines.next() {
        renewed.push_str(line);
        let Some(source) = line.trim_end().strip_prefix("<!-- ").and_then(|rest| rest.strip_suffix(" -->")) else {
            continue;
        };
        if !lines.peek().is_some_and(|next| next.starts_with(FENCE)) {
            continue;
        }
        renewed.push_str(lines.next().unwrap_or_default());
        renewed.push_str(&shown(root, source)?);
        let end = lines.by_ref().find(|line| line.starts_with(FENCE));
        renewed.push_str(end.with_context(|| format!("the block of {source} has no end"))?);
    }
    Ok(renewed)
}

/// A file, or a function of a test file.
fn shown(root: &Path, source: &str) -> Result<String> {
    let (path, function) = source.split_once(": ").map_or((source, None), |(path, function)| (path, Some(function)));
    let text = fs::read_to_string(root.join(path)).with_context(|| format!("reading {path}"))?;
    let Some(function) = function else { return Ok(text) };
    let start = text.find(&format!("#[test]\nfn {function}()"));
    let found = start.and_then(|start| text.get(start..)).with_context(|| format!("{path} has no test {function}"))?;
    let (body, _) = found.split_once("\n}\n").with_context(|| format!("{function} has no end"))?;
    Ok(format!("{body}\n}}\n"))
}

#[cfg(test)]
mod tests {
    use super::document;

    const A: &str = "struct A;\n";
    const B: &str = "#[test]\nfn one() {\n    1;\n}\n\n#[test]\nfn two() {\n    2;\n}\n";

    /// The page, renewed, beside these files.
    fn renewed(page: &str) -> anyhow::Result<String> {
        let directory = tempfile::tempdir()?;
        for (name, text) in [("a.rs", A), ("b.rs", B), ("page.md", page)] {
            std::fs::write(directory.path().join(name), text)?;
        }
        document(directory.path(), "page.md")
    }

    #[test]
    fn the_block_after_a_comment_is_the_file_that_it_names() {
        let page = "# Page\n<!-- a.rs -->\n```rust\nold\n```\n```\nkept\n```\n<!-- kept -->\n";

        let expected = "# Page\n<!-- a.rs -->\n```rust\nstruct A;\n```\n```\nkept\n```\n<!-- kept -->\n";
        assert_eq!(renewed(page).expect("all of it is there"), expected);
    }

    #[test]
    fn the_block_after_a_comment_is_the_test_that_it_names() {
        let page = "<!-- b.rs: two -->\n```rust\n```\n";

        let expected = "<!-- b.rs: two -->\n```rust\n#[test]\nfn two() {\n    2;\n}\n```\n";
        assert_eq!(renewed(page).expect("all of it is there"), expected);
    }

    #[test]
    fn a_test_a_file_or_an_end_that_is_not_there_is_told() {
        assert!(renewed("<!-- b.rs: three -->\n```rust\n```\n").is_err());
        assert!(renewed("<!-- c.rs -->\n```rust\n```\n").is_err());
        assert!(renewed("<!-- a.rs -->\n```rust\n").is_err());
    }
}
