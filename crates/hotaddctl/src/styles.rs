//! How words look on a terminal.

use anstyle::{AnsiColor, Style};

/// What is fine.
pub const GOOD: Style = AnsiColor::Green.on_default();
/// What is on its way, or held.
pub const HELD: Style = AnsiColor::Yellow.on_default();
/// What is broken.
pub const BAD: Style = AnsiColor::Red.on_default().bold();
/// What stands out.
pub const STRONG: Style = Style::new().bold();
/// What stands back.
pub const WEAK: Style = Style::new().dimmed();
/// The rest.
pub const PLAIN: Style = Style::new();
