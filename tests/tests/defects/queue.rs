//! Callbacks of cancel-safe queues that return at another IRQL.

use ntlab::{
    machine::System,
    pnp::Device,
    user::{Access, Request},
};

use crate::scenario::{CLASS, CONTROL, Scenario};

defects! {
    queue_insert_returns_raised => 0xC4, 0x2_001D, Scenario::software().earlier();
    queue_insert_ex_returns_raised => 0xC4, 0x2_001D, Scenario::software().earlier();
    queue_remove_returns_raised => 0xC4, 0x2_001D, Scenario::software().earlier();
    queue_peek_returns_raised => 0xC4, 0x2_001D, Scenario::software().earlier();
    queue_complete_returns_raised => 0xC4, 0x2_001D, Scenario::software().with(cancel).earlier();
    queue_acquire_lowers => 0xC4, 0x2_001D, Scenario::software().earlier();
    queue_release_stays_raised => 0xC4, 0x2_001D, Scenario::software().earlier();
}

fn cancel(system: &System, _: Device) {
    let handle = system.open_interface(CLASS, 0, Access::ReadWrite).expect("the interface is enabled");
    let pending = handle.submit(Request::Control { code: CONTROL, input: Vec::new(), output: 0 });
    pending.cancel();
    let _ = pending.wait();
    handle.close();
}
