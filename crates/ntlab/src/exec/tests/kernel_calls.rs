//! Calls from the driver to the kernel and back.

use super::Guest;

#[test]
fn a_kernel_call_takes_its_arguments_from_registers_and_stack() {
    Guest::new().run(|guest| {
        let sum: u64 = (0..1000).sum();
        assert_eq!(guest.call("sum_loop", 1000, 7), sum + 1000 * (7 + 4 + 5));
    });
}

#[test]
fn kernel_calls_and_calls_into_the_driver_nest() {
    Guest::new().run(|guest| {
        assert_eq!(guest.call("nest", 40, 0), 80);
        assert_eq!(guest.call("invoke_loop", 100, 0), (0..100).sum::<u64>() + 100);
    });
}

#[test]
fn what_win64_preserves_survives_a_kernel_call() {
    Guest::new().run(|guest| assert_eq!(guest.call("registers_survive", 0, 0), 1));
}

#[test]
fn a_panic_of_kernel_code_is_carried_over_the_drivers_frames() {
    Guest::new().run(|guest| {
        let before = guest.k.exec.save();
        for depth in [0, 1, 10] {
            let payload = guest.unwinds("nest_then_panic", depth, 0);
            assert_eq!(payload.downcast_ref::<&str>(), Some(&"a kernel function panics"));
        }
        assert_eq!(guest.k.exec.save(), before);
        assert_eq!(guest.call("add", 1, 2), 3);
    });
}
