//! The model of `edu` and the real device, QEMU's, do the same: random register programs run on both, and every value read, every
//! interrupt and every byte of memory must agree.
//!
//! `NTLAB_SEED` in the environment makes it run that seed only. A program that finds a difference is made small before it is shown.

mod both;
mod model;
mod program;

use std::env;

use both::{Difference, Done, run};
use ntlab::hw::{
    edu::EduModel,
    qemu::{self, QemuError},
};
use program::{Interrupts, Step, program};

const STEPS: usize = 10_000;
/// Programs that are tried to find a small one.
const TRIES: u32 = 100;

#[test]
fn the_model_and_the_real_device_agree_with_line_interrupts() {
    each_seed(|seed| {
        let done = compare(seed, Interrupts::Line);
        assert!(done.line_changes > 100, "{done:?}");
    });
}

#[test]
fn the_model_and_the_real_device_agree_with_messages() {
    each_seed(|seed| {
        let done = compare(seed, Interrupts::Message);
        assert!(done.messages > 100, "{done:?}");
    });
}

#[test]
fn an_interrupt_that_only_one_of_them_signals_is_a_difference() {
    for interrupts in [Interrupts::Line, Interrupts::Message] {
        for found in [both::signal_unknown(interrupts, &installed()), both::miss_signal(interrupts, &installed())] {
            let sentence = found.expect_err("they differ");
            assert!(sentence.contains("signals"), "{interrupts:?}: {sentence}");
        }
    }
}

#[test]
fn a_transfer_under_way_reaches_memory_after_a_bus_reset_until_the_command_register_is_written() {
    let model = installed();
    assert!(model.masters_after_reset, "QEMU's do");
    for expected in [true, false] {
        let model = EduModel { masters_after_reset: expected, ..model.clone() };
        let found = both::reset_in_transfer(&model);
        assert_eq!(found.is_ok(), expected, "{found:?}");
    }
}

#[test]
fn a_model_with_fewer_address_bits_is_told_from_the_device() {
    let model = EduModel { dma_mask: 0x00FF_FFFF, ..installed() };
    let found = run(&program(0, Interrupts::Line, STEPS, &installed()), Interrupts::Line, &model);
    assert!(found.is_err(), "another mask makes a difference");
}

/// The variant that the installed QEMU has.
fn installed() -> EduModel {
    let version = qemu::version().unwrap_or_else(|error: QemuError| panic!("{error}"));
    EduModel::of_qemu(version.major)
}

fn each_seed(test: impl Fn(u64)) {
    let chosen = env::var("NTLAB_SEED").ok().map(|text| text.parse().expect("NTLAB_SEED is a number"));
    chosen.map_or(0..3, |seed: u64| seed..seed + 1).for_each(test);
}

/// Runs a program on both; nothing that programs are for is missing in it.
fn compare(seed: u64, interrupts: Interrupts) -> Done {
    let model = installed();
    let steps = program(seed, interrupts, STEPS, &model);
    let difference = match run(&steps, interrupts, &model) {
        Ok(done) => {
            let often = [done.reads, done.to_memory, done.to_device].iter().all(|count| *count > 100);
            assert!(often && done.resets > 30 && done.resets_in_transfer > 0, "seed {seed}: {done:?}");
            return done;
        }
        Err(difference) => difference,
    };
    eprintln!("seed {seed}: {difference}; looking for a smaller program");
    let (steps, difference) = shrink(steps, difference, |steps| run(steps, interrupts, &model).err());
    panic!(
        "{difference}\nafter {steps:#x?}\nto repeat this: NTLAB_SEED={seed} cargo test --package ntlab --test real_edu {interrupts:?}",
    );
}

/// The smallest program found that still makes a difference: ever smaller parts are left out.
fn shrink(
    mut steps: Vec<Step>,
    mut difference: Difference,
    try_it: impl Fn(&[Step]) -> Option<Difference>,
) -> (Vec<Step>, Difference) {
    steps.truncate(difference.step + 1);
    let (mut tries, mut part) = (0, steps.len().div_ceil(2));
    while part > 0 && tries < TRIES {
        let mut start = 0;
        while start < steps.len() && tries < TRIES {
            let mut fewer = steps.clone();
            fewer.drain(start..(start + part).min(steps.len()));
            tries += 1;
            match try_it(&fewer) {
                Some(found) => {
                    fewer.truncate(found.step + 1);
                    (steps, difference) = (fewer, found);
                }
                None => start += part,
            }
        }
        part /= 2;
    }
    (steps, difference)
}
