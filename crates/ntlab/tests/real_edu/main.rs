//! The model of `edu` and the real device, QEMU's, do the same: random register programs run on both, and every value read, every
//! interrupt and every byte of memory must agree.
//!
//! `NTLAB_SEED` in the environment makes it run that seed only. A program that finds a difference is made small before it is shown.

mod both;
mod model;
mod program;

use std::env;

use both::{Difference, run};
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
    each_seed(|seed| compare(seed, Interrupts::Line));
}

#[test]
fn the_model_and_the_real_device_agree_with_messages() {
    each_seed(|seed| compare(seed, Interrupts::Message));
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

fn compare(seed: u64, interrupts: Interrupts) {
    let model = installed();
    let steps = program(seed, interrupts, STEPS, &model);
    let Err(difference) = run(&steps, interrupts, &model) else { return };
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
