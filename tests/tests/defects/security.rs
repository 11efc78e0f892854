//! What user mode may do and see.

use ntlab::{machine::System, pnp::Device, user::Access};

use crate::scenario::{CLASS, CONTROL, Scenario};

defects! {
    security_user_input_not_probed => 0xC4, 0x1AB_0803, Scenario::software().with(neither);
    security_user_output_probed_for_reading => 0xC4, 0x1AB_0803, Scenario::software().with(neither);
    security_user_address_of_a_buffered_request => 0xC4, 0x1AB_0803, Scenario::software().with(buffered);
    security_user_address_given_to_the_kernel => 0xC4, 0xE0, Scenario::software().with(neither);
    security_user_input_read_at_dispatch_level => 0xD1, _, Scenario::software().with(neither);
    security_input_written_that_is_locked_for_reading => 0xC4, 0x1AB_0804, Scenario::software().with(direct_input);
    security_locked_for_reading_and_written => 0xC4, 0x1AB_0804, Scenario::software().with(neither);
    security_output_longer_than_the_buffer => 0xC4, 0x1AB_0802, Scenario::software().with(buffered);
    security_system_buffer_returned_unwritten => 0xC4, 0x1AB_0801, Scenario::software().with(short_input);
    security_unwritten_pool_returned => 0xC4, 0x1AB_0801, Scenario::software().with(buffered).earlier();
    security_unwritten_pool_copied_to_the_user => 0xC4, 0x1AB_0801, Scenario::software().with(neither).earlier();
}

const METHOD_IN_DIRECT: u32 = 1;
const METHOD_NEITHER: u32 = 3;
/// As long as the driver takes them to be.
const LENGTH: usize = 64;

fn ask(system: &System, code: u32, input: &[u8]) {
    let handle = system.open_interface(CLASS, 0, Access::ReadWrite).expect("the interface is enabled");
    handle.device_control(code, input, LENGTH).expect("the driver takes any request");
    handle.close();
}

fn neither(system: &System, _: Device) {
    ask(system, CONTROL | METHOD_NEITHER, &[7; LENGTH]);
}

fn direct_input(system: &System, _: Device) {
    ask(system, CONTROL | METHOD_IN_DIRECT, &[7; LENGTH]);
}

fn buffered(system: &System, _: Device) {
    ask(system, CONTROL, &[7; LENGTH]);
}

fn short_input(system: &System, _: Device) {
    ask(system, CONTROL, &[7; 4]);
}
