//! Panics of a scenario, as a failed assertion is, taken as what they say: a promise that the driver broke.

use std::{
    any::Any,
    cell::{Cell, RefCell},
    panic,
    sync::Once,
};

thread_local! {
    /// Panics of this OS thread are not printed.
    static QUIET: Cell<bool> = const { Cell::new(false) };
    /// Where the last of them was.
    static PLACE: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// While it lives, panics of this OS thread are not printed but kept.
#[derive(Debug)]
pub struct Quiet {
    before: bool,
}

impl Quiet {
    /// From now on.
    #[must_use]
    pub fn begin() -> Self {
        static HOOK: Once = Once::new();
        HOOK.call_once(|| {
            let before = panic::take_hook();
            panic::set_hook(Box::new(move |panic| {
                if QUIET.get() {
                    let place = panic.location().map(|place| format!("{}:{}", place.file(), place.line()));
                    PLACE.set(place);
                } else {
                    before(panic);
                }
            }));
        });
        Self { before: QUIET.replace(true) }
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        QUIET.set(self.before);
    }
}

/// What a panic says.
#[must_use]
pub fn message(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("a panic without a message")
}

/// The same of a panic that was kept, with its place.
#[must_use]
pub fn sentence(payload: &(dyn Any + Send)) -> String {
    let place = PLACE.take().map(|place| format!(" ({place})")).unwrap_or_default();
    format!("{}{place}", message(payload))
}
