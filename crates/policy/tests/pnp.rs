//! The PnP table, against what the documents ask of a function driver.

use hotadd_policy::pnp::{Action, Request, State, decide, usage_after, usage_forbids};
use proptest::prelude::*;

const STATES: &[State] = State::ALL;

#[test]
fn a_cancel_that_no_query_came_before_changes_nothing() {
    for &state in STATES {
        if !matches!(state, State::StopPending | State::Removed) {
            let moved = decide(state, Request::CancelStop);
            assert_eq!((moved.next, moved.action), (state, Action::PassDown), "cancel-stop in {state:?}");
        }
        if !matches!(state, State::RemovePending | State::Removed) {
            let moved = decide(state, Request::CancelRemove);
            assert_eq!((moved.next, moved.action), (state, Action::PassDown), "cancel-remove in {state:?}");
        }
    }
}

#[test]
fn surprise_removal_takes_the_device_from_every_state_that_has_one() {
    for &state in STATES {
        let moved = decide(state, Request::SurpriseRemoval);
        match state {
            State::SurpriseRemoved => assert_eq!((moved.next, moved.action), (state, Action::PassDown)),
            State::Removed => assert_eq!(moved.action, Action::Reject),
            _ => assert_eq!((moved.next, moved.action), (State::SurpriseRemoved, Action::LoseDevice)),
        }
    }
}

#[test]
fn removal_is_carried_out_from_every_state_but_once() {
    for &state in STATES {
        let expected = if state == State::Removed { Action::Reject } else { Action::Remove };
        let moved = decide(state, Request::Remove);
        assert_eq!((moved.next, moved.action), (State::Removed, expected));
    }
}

#[test]
fn only_a_query_can_fail_for_the_paging_path() {
    for request in Request::ALL {
        assert!(!usage_forbids(request, 0));
        assert_eq!(usage_forbids(request, 1), matches!(request, Request::QueryStop | Request::QueryRemove));
    }
    assert_eq!(usage_after(0, false), 0);
    assert_eq!(usage_after(u32::MAX, true), u32::MAX);
}

#[test]
fn a_rebalance_holds_stops_and_restarts() {
    let mut state = State::Started;
    for (request, action, next) in [
        (Request::QueryStop, Action::HoldForStop, State::StopPending),
        (Request::Stop, Action::Stop, State::Stopped),
        (Request::Start, Action::Restart, State::Started),
    ] {
        let moved = decide(state, request);
        assert_eq!((moved.action, moved.next), (action, next));
        state = moved.next;
    }
}

/// What is true of the device after what was done to it.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Device {
    hardware: bool,
    passing: bool,
    refused: bool,
}

impl Device {
    fn apply(&mut self, action: Action) {
        match action {
            Action::PassDown | Action::Reject => {}
            Action::Start | Action::Restart => {
                assert!(!self.hardware, "hardware brought up twice");
                *self = Self { hardware: true, passing: true, refused: false };
            }
            Action::HoldForStop | Action::HoldForRemoval => {
                assert!(self.passing, "held twice");
                self.passing = false;
            }
            Action::EndStop | Action::EndRemoval => {
                assert!(self.hardware && !self.passing, "released what was not held");
                self.passing = true;
            }
            Action::Stop => *self = Self { hardware: false, passing: false, refused: false },
            Action::LoseDevice | Action::Remove => *self = Self { hardware: false, passing: false, refused: true },
        }
    }

    fn expected(state: State) -> Self {
        Self {
            hardware: matches!(state, State::Started | State::StopPending | State::RemovePending),
            passing: state == State::Started,
            refused: matches!(state, State::SurpriseRemoved | State::Removed),
        }
    }
}

proptest! {
    #[test]
    fn whatever_the_pnp_manager_sends_the_device_is_as_its_state_says(
        requests in prop::collection::vec((0..Request::ALL.len(), any::<bool>()), 0..60),
    ) {
        let (mut state, mut device) = (State::NotStarted, Device::default());
        for (request, succeeds) in requests {
            let moved = decide(state, Request::ALL[request]);
            if matches!(moved.action, Action::Start | Action::Restart) && !succeeds {
                continue;
            }
            device.apply(moved.action);
            state = moved.next;
            prop_assert_eq!(device, Device::expected(state), "in {:?}", state);
        }
    }
}
