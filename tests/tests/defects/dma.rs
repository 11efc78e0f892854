//! DMA.

use ntlab::{machine::System, pnp::Device, user::Access};

use crate::scenario::{CLASS, CONTROL, Scenario};

defects! {
    dma_not_mapped => 0xE6, 0x26, Scenario::edu();
    dma_beyond_the_mask => 0xE6, 0x26, Scenario::edu();
    dma_freed_in_flight => 0xE6, 0x26, Scenario::edu();
    dma_unmapped_in_flight => 0xE6, 0x26, Scenario::edu().with(direct_request);
    dma_outside_the_device => 0xE6, 0x26, Scenario::edu();
    dma_buffer_freed_twice => 0xE6, 0x03, Scenario::edu();
    dma_adapter_put_with_buffer => 0xE6, 0x07, Scenario::edu();
    dma_adapter_put_with_list => 0xE6, 0x0A, Scenario::edu().with(direct_request);
    dma_adapter_used_after_put => 0xE6, 0x18, Scenario::edu();
    dma_list_put_twice => 0xE6, 0x06, Scenario::edu().with(direct_request);
    dma_outside_the_buffer => 0xE6, 0x1B, Scenario::edu().with(direct_request);
    dma_buffer_not_locked => 0xE6, 0x0E, Scenario::edu();
}

/// A request with a locked buffer.
fn direct_request(system: &System, _: Device) {
    /// `METHOD_OUT_DIRECT`.
    const OUT_DIRECT: u32 = 2;
    let handle = system.open_interface(CLASS, 0, Access::ReadWrite).expect("the interface is enabled");
    handle.device_control(CONTROL | OUT_DIRECT, &[], 16).expect("the driver takes any request");
    handle.close();
}
