//! DMA.

use ntlab::{machine::System, pnp::Device, user::Access};

use crate::scenario::{CLASS, CONTROL, Scenario};

defects! {
    dma_not_mapped => 0xE6, 0x26, Scenario::edu();
    dma_beyond_the_mask => 0xE6, 0x26, Scenario::edu();
    dma_freed_in_flight => 0xE6, 0x26, Scenario::edu();
    dma_unmapped_in_flight => 0xE6, 0x26, Scenario::edu().with(direct_request);
}

/// A request with a locked buffer.
fn direct_request(system: &System, _: Device) {
    /// `METHOD_OUT_DIRECT`.
    const OUT_DIRECT: u32 = 2;
    let handle = system.open_interface(CLASS, 0, Access::ReadWrite).expect("the interface is enabled");
    handle.device_control(CONTROL | OUT_DIRECT, &[], 16).expect("the driver takes any request");
    handle.close();
}
