//! What processors did for drivers and what users asked of them, with its beginning and its end: for pictures of a run, where the
//! [trace](crate::events) tells single steps.

use std::cell::RefCell;

use serde::Serialize;

use crate::{kernel::Kernel, machine::System, pnp::Device};

/// Something that took time.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct Span {
    /// What it was.
    pub what: What,
    /// Index of the processor on which it ended.
    pub processor: u32,
    /// Virtual nanoseconds since the machine started, when it began.
    pub begin: u64,
    /// And when it ended.
    pub end: u64,
}

/// What takes time.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub enum What {
    /// An interrupt was served.
    Interrupt {
        /// Its vector.
        vector: u32,
    },
    /// A DPC ran.
    Dpc,
    /// A user's request, from when it was sent to when its result was there.
    Request(Asked),
}

/// A request that a user sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct Asked {
    /// The device it was sent to; none where that is not on the PnP manager's tree.
    pub device: Option<Device>,
    /// The major function code.
    pub major: u8,
    /// The control code; 0 where it is none.
    pub code: u32,
    /// The NTSTATUS it ended with.
    pub status: i32,
}

/// The timeline of a run.
#[derive(Debug)]
pub struct Timeline {
    /// None where it is not kept.
    spans: Option<RefCell<Vec<Span>>>,
}

impl Timeline {
    /// An empty timeline, which stays so where it is not to be kept.
    pub(crate) fn new(keeps: bool) -> Self {
        Self { spans: keeps.then(RefCell::default) }
    }

    /// Whether it is kept.
    pub(crate) const fn is_kept(&self) -> bool {
        self.spans.is_some()
    }

    /// Adds what began at `begin` and ends now, on the processor that runs.
    #[inline]
    pub(crate) fn end(&self, k: &Kernel, what: What, begin: u64) {
        if let Some(spans) = &self.spans {
            Self::add(spans, Span { what, processor: k.processor_index(), begin, end: k.now() });
        }
    }

    #[inline(never)]
    fn add(spans: &RefCell<Vec<Span>>, span: Span) {
        spans.borrow_mut().push(span);
    }
}

impl System {
    /// Takes what the timeline has so far, in order of ends; nothing where the machine does not keep one
    /// ([`Config::keep_timeline`](crate::config::Config::keep_timeline)).
    #[must_use]
    pub fn take_timeline(&self) -> Vec<Span> {
        self.kernel.timeline.spans.as_ref().map(RefCell::take).unwrap_or_default()
    }
}
