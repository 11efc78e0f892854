//! Parameters, pool, journal, power, interrupts, factorials and transfers.

use hotadd_policy::interrupt::{Policy, requested as policy_requested};
use hotadd_policy::journal::{capacity, slot, window};
use hotadd_policy::parameters::{ALL, Found, Value};
use hotadd_policy::work::{BadTransfer, Transfer, factorial, transfer};
use hotadd_policy::{pool, power};
use proptest::prelude::*;

#[test]
fn every_parameter_has_its_default_in_its_range_and_its_limits_are_accepted() {
    for parameter in ALL {
        for good in [parameter.least, parameter.default, parameter.most] {
            assert_eq!(
                parameter.value(Found::Dword(good)),
                Value { value: good, ignored: false },
                "{}",
                parameter.name
            );
        }
        assert!(parameter.name.is_ascii());
    }
}

#[test]
fn a_bad_value_falls_back_to_the_default_and_is_told() {
    for parameter in ALL {
        let ignored = Value { value: parameter.default, ignored: true };
        assert_eq!(parameter.value(Found::Unusable), ignored);
        assert_eq!(parameter.value(Found::Dword(parameter.most + 1)), ignored);
        if let Some(below) = parameter.least.checked_sub(1) {
            assert_eq!(parameter.value(Found::Dword(below)), ignored);
        }
        assert_eq!(parameter.value(Found::Nothing), Value { value: parameter.default, ignored: false });
    }
}

#[test]
fn only_s0_leaves_the_device_on() {
    assert_eq!(power::device_for_system(true), power::Device::D0);
    assert_eq!(power::device_for_system(false), power::Device::D3);
    assert_eq!(power::decide(power::Device::D3, power::Device::D0), power::Action::TurnOn);
    assert_eq!(power::decide(power::Device::D0, power::Device::D3), power::Action::TurnOff);
    assert_eq!(power::decide(power::Device::D0, power::Device::D0), power::Action::PassDown);
    assert_eq!(power::decide(power::Device::D3, power::Device::D3), power::Action::PassDown);
}

#[test]
fn an_administrators_interrupt_policy_is_left_alone() {
    assert_eq!(policy_requested(Policy::MACHINE_DEFAULT, true), Some(Policy::SPREAD_MESSAGES));
    assert_eq!(policy_requested(Policy::MACHINE_DEFAULT, false), Some(Policy::ALL_PROCESSORS));
    for chosen in 1..6 {
        assert_eq!(policy_requested(Policy(chosen), chosen % 2 == 0), None);
    }
}

#[test]
fn factorials_are_those_that_the_edu_device_computes() {
    assert_eq!([0, 1, 5, 12].map(factorial), [1, 1, 120, 479_001_600]);
    assert_eq!(factorial(13), 1_932_053_504);
    assert_ne!(factorial(33), 0);
    assert_eq!([34, 1_000_000_000, u32::MAX].map(factorial), [0; 3]);
}

proptest! {
    #[test]
    fn a_journal_reader_gets_every_event_that_is_left_and_the_number_of_those_that_are_not(
        capacity in 1_u64..10_000, next in 0_u64..1_000_000, cursor in 0_u64..1_100_000,
    ) {
        match window(cursor, next, capacity) {
            None => prop_assert!(cursor > next),
            Some(found) => {
                prop_assert!(found.available <= capacity);
                prop_assert_eq!(cursor + found.missed, found.first);
                prop_assert_eq!(found.first + found.available, next);
                prop_assert!(found.missed == 0 || found.available == capacity);
            }
        }
    }

    #[test]
    fn a_journal_is_as_long_as_asked_and_less_than_twice_that(wanted in 1_u32..=1 << 31) {
        let (capacity, wanted) = (capacity(wanted), wanted as usize);
        prop_assert!(capacity >= wanted && capacity < 2 * wanted);
    }

    #[test]
    fn neighbouring_events_never_share_a_slot(wanted in 1_u32..10_000, sequence: u64, apart in 1_u64..10_000) {
        let capacity = capacity(wanted);
        let (first, second) = (slot(sequence, capacity), slot(sequence.saturating_add(apart), capacity));
        prop_assert!(first.unwrap() < capacity);
        if apart < capacity as u64 && sequence.checked_add(apart).is_some() {
            prop_assert_ne!(first, second);
        }
        prop_assert_eq!(slot(sequence, 0), None);
    }

    #[test]
    fn more_memory_never_makes_the_pool_smaller_and_the_bound_holds(memory: u64, more: u64, most in (64_u64 << 10)..(1 << 30)) {
        let now = pool::buffers(memory, most);
        prop_assert!(pool::buffers(memory.saturating_add(more), most) >= now);
        prop_assert!(now * pool::BUFFER_BYTES <= most);
        prop_assert!(now > 0);
    }

    #[test]
    fn a_transfer_is_accepted_exactly_if_it_lies_in_the_buffer(offset: i64, near in -5_000_i64..5_000, length in 0_u32..5_000) {
        for offset in [offset, near] {
            let end = i128::from(offset) + i128::from(length);
            let inside = offset >= 0 && end <= 4095;
            let result = transfer(offset, length, 4095);
            prop_assert_eq!(result.is_ok(), inside);
            if let Ok(Transfer { offset: from, length: bytes }) = result {
                prop_assert_eq!((i64::from(from), bytes), (offset, length));
            }
        }
    }
}

#[test]
fn a_transfer_that_does_not_fit_is_told_why() {
    assert_eq!(transfer(-1, 1, 4095), Err(BadTransfer::Invalid));
    assert_eq!(transfer(i64::MAX, 1, 4095), Err(BadTransfer::Invalid));
    assert_eq!(transfer(4095, 1, 4095), Err(BadTransfer::BeyondEnd));
    assert_eq!(transfer(4096, 0, 4095), Err(BadTransfer::BeyondEnd));
    assert_eq!(transfer(4094, 2, 4095), Err(BadTransfer::OverEnd));
    assert_eq!(transfer(4095, 0, 4095), Ok(Transfer { offset: 4095, length: 0 }));
}
