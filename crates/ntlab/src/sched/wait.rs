//! x
use super::{Sched, Thread};
impl Sched {
    pub(super) fn forget_waiter(&self, _t: &Thread) {}
}
