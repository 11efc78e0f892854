//! Ending on Ctrl-C: what follows the journal ends well, and writes what it has to.

use std::sync::atomic::{AtomicBool, Ordering};

static ASKED_FOR: AtomicBool = AtomicBool::new(false);

/// Notes Ctrl-C from now on instead of ending the program; the second one ends it.
///
/// # Errors
///
/// The system does not tell of it.
pub fn listen() -> Result<(), ctrlc::Error> {
    ctrlc::set_handler(|| {
        if ASKED_FOR.swap(true, Ordering::Relaxed) {
            std::process::exit(1);
        }
    })
}

/// Whether the user wants no more.
pub fn is_asked_for() -> bool {
    ASKED_FOR.load(Ordering::Relaxed)
}
