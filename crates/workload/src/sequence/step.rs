//! The steps, and when Windows may take them.

use std::fmt;

use ntlab::{pnp::PnpRequest, power::SystemState};
use serde::{Deserialize, Serialize};

/// One thing that happens to the device or to its machine.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub enum Step {
    /// A PnP request to the device.
    Pnp(PnpRequest),
    /// A restart after a stop, which the bus fails; the device is given up.
    FailedRestart,
    /// A device that was disabled, or failed, is added and started again.
    Enable,
    /// The system asks whether it may sleep.
    QuerySleep,
    /// The system asks whether it may hibernate.
    QueryHibernate,
    /// It does what it asked for.
    Sleep,
    /// It wakes up, or does not sleep after all.
    Wake,
    /// AddStart for a processor.
    AddStart,
    /// The processor runs threads.
    Activate,
    /// AddComplete.
    AddComplete,
    /// AddFailure.
    AddFailure,
    /// A memory module is added.
    AddMemory,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pnp(request) => write!(f, "{request:?}"),
            step => write!(f, "{step:?}"),
        }
    }
}

/// What has become of the device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Device {
    Started,
    StopPending,
    Stopped,
    RemovePending,
    Disabled,
    Failed,
    Gone,
}

/// What the system is about to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Power {
    Working,
    Asked(SystemState),
    Asleep(SystemState),
}

/// How far a processor is that is being added.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Addition {
    None,
    Begun,
    Active,
}

/// What has happened so far, as far as it decides what may come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct State {
    device: Device,
    power: Power,
    addition: Addition,
}

/// Every step there is.
const STEPS: [Step; 19] = [
    Step::Pnp(PnpRequest::QueryStop),
    Step::Pnp(PnpRequest::CancelStop),
    Step::Pnp(PnpRequest::Stop),
    Step::Pnp(PnpRequest::Restart),
    Step::Pnp(PnpRequest::QueryRemove),
    Step::Pnp(PnpRequest::CancelRemove),
    Step::Pnp(PnpRequest::Remove),
    Step::Pnp(PnpRequest::SurpriseRemoval),
    Step::FailedRestart,
    Step::Enable,
    Step::QuerySleep,
    Step::QueryHibernate,
    Step::Sleep,
    Step::Wake,
    Step::AddStart,
    Step::Activate,
    Step::AddComplete,
    Step::AddFailure,
    Step::AddMemory,
];

impl State {
    /// A device that works.
    pub(super) const START: Self = Self { device: Device::Started, power: Power::Working, addition: Addition::None };

    /// What the system asked to do, or does.
    pub(super) const fn sleep(self) -> Option<SystemState> {
        match self.power {
            Power::Working => None,
            Power::Asked(state) | Power::Asleep(state) => Some(state),
        }
    }

    /// Whether the device agreed to be removed.
    pub(super) const fn device_was_asked(self) -> bool {
        matches!(self.device, Device::RemovePending)
    }

    /// Whether the device will serve requests, now or when it goes on.
    pub(super) const fn is_alive(self) -> bool {
        matches!(self.device, Device::Started | Device::StopPending | Device::Stopped)
    }

    /// The state after `step`; none if Windows does not take it now. The PnP manager does nothing while the system is about to sleep, and
    /// nothing is added to a system that is asleep. A driver that is loaded anew registers its processor change callback, which waits until
    /// no processor is being added: step by step, the device is enabled before or after that. So does a driver that is unloaded because its
    /// device is gone, and the system does not go to sleep meanwhile.
    pub(super) fn after(self, step: Step) -> Option<Self> {
        let waits = |state: &Self| {
            state.device == Device::Gone && state.power != Power::Working && state.addition != Addition::None
        };
        self.next(step).filter(|state| !waits(state))
    }

    fn next(self, step: Step) -> Option<Self> {
        match step {
            Step::Enable if self.addition != Addition::None => None,
            Step::Pnp(_) | Step::FailedRestart | Step::Enable => {
                let device = (self.power == Power::Working).then(|| self.device.after(step))??;
                Some(Self { device, ..self })
            }
            Step::QuerySleep | Step::QueryHibernate | Step::Sleep | Step::Wake => {
                let between = matches!(self.device, Device::StopPending | Device::Stopped | Device::RemovePending);
                let power = (!between).then(|| self.power.after(step))??;
                Some(Self { power, ..self })
            }
            _ if matches!(self.power, Power::Asleep(_)) => None,
            Step::AddMemory => Some(self),
            _ => Some(Self { addition: self.addition.after(step)?, ..self }),
        }
    }

    /// The shortest way back to a device that works, in a system that works, with nothing under way; a device that is gone stays so.
    pub(super) fn way_back(mut self) -> Vec<Step> {
        let mut steps = Vec::new();
        while let Some(step) = self.step_back() {
            self = self.after(step).expect("a step back is possible");
            steps.push(step);
        }
        steps
    }

    const fn step_back(self) -> Option<Step> {
        match self {
            Self { power: Power::Asked(_) | Power::Asleep(_), .. } => Some(Step::Wake),
            Self { addition: Addition::Begun, .. } => Some(Step::Activate),
            Self { addition: Addition::Active, .. } => Some(Step::AddComplete),
            Self { device, .. } => match device {
                Device::Started | Device::Gone => None,
                Device::StopPending => Some(Step::Pnp(PnpRequest::CancelStop)),
                Device::Stopped => Some(Step::Pnp(PnpRequest::Restart)),
                Device::RemovePending => Some(Step::Pnp(PnpRequest::CancelRemove)),
                Device::Disabled | Device::Failed => Some(Step::Enable),
            },
        }
    }
}

impl Device {
    const fn after(self, step: Step) -> Option<Self> {
        use PnpRequest as Request;
        Some(match (self, step) {
            (Self::Started, Step::Pnp(Request::QueryStop)) => Self::StopPending,
            (Self::StopPending, Step::Pnp(Request::Stop)) => Self::Stopped,
            (Self::Started, Step::Pnp(Request::QueryRemove)) => Self::RemovePending,
            (Self::RemovePending, Step::Pnp(Request::Remove)) => Self::Disabled,
            (Self::Stopped, Step::FailedRestart) => Self::Failed,
            (Self::Started | Self::StopPending, Step::Pnp(Request::CancelStop))
            | (Self::Stopped, Step::Pnp(Request::Restart))
            | (Self::Started | Self::RemovePending, Step::Pnp(Request::CancelRemove))
            | (Self::Disabled | Self::Failed, Step::Enable) => Self::Started,
            (
                Self::Started | Self::StopPending | Self::Stopped | Self::RemovePending,
                Step::Pnp(Request::SurpriseRemoval),
            ) => Self::Gone,
            _ => return None,
        })
    }
}

impl Power {
    const fn after(self, step: Step) -> Option<Self> {
        Some(match (self, step) {
            (Self::Working, Step::QuerySleep) => Self::Asked(SystemState::S3),
            (Self::Working, Step::QueryHibernate) => Self::Asked(SystemState::S4),
            (Self::Asked(state), Step::Sleep) => Self::Asleep(state),
            (Self::Asked(_) | Self::Asleep(_), Step::Wake) => Self::Working,
            _ => return None,
        })
    }
}

impl Addition {
    const fn after(self, step: Step) -> Option<Self> {
        Some(match (self, step) {
            (Self::None, Step::AddStart) => Self::Begun,
            (Self::Begun, Step::Activate) => Self::Active,
            (Self::Begun, Step::AddFailure) | (Self::Active, Step::AddComplete) => Self::None,
            _ => return None,
        })
    }
}

/// Every sequence of so many steps that Windows may take, in a fixed order.
#[must_use]
pub fn of_length(length: usize) -> Vec<Vec<Step>> {
    let mut sequences = vec![(Vec::new(), State::START)];
    for _ in 0..length {
        sequences = sequences.iter().flat_map(|(steps, state)| longer(steps, *state)).collect();
    }
    sequences.into_iter().map(|(steps, _)| steps).collect()
}

/// Every sequence of 1 to `length` steps.
#[must_use]
pub fn up_to(length: usize) -> Vec<Vec<Step>> {
    (1..=length).flat_map(of_length).collect()
}

/// The sequences that one gets by leaving a step out, as far as Windows may take them.
#[must_use]
pub fn shorter(steps: &[Step]) -> Vec<Vec<Step>> {
    let without = |place: usize| [&steps[..place], &steps[place + 1..]].concat();
    let may_be = |steps: &Vec<Step>| steps.iter().try_fold(State::START, |state, &step| state.after(step)).is_some();
    (0..steps.len()).map(without).filter(may_be).collect()
}

fn longer(steps: &[Step], state: State) -> impl Iterator<Item = (Vec<Step>, State)> {
    let next = STEPS.iter().filter_map(move |&step| state.after(step).map(|after| (step, after)));
    next.map(move |(step, after)| ([steps, &[step]].concat(), after))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_step_is_a_question_or_a_surprise_or_an_addition_or_unasked() {
        let first: Vec<String> = of_length(1).iter().map(|steps| steps[0].to_string()).collect();
        let expected = [
            "QueryStop",
            "CancelStop",
            "QueryRemove",
            "CancelRemove",
            "SurpriseRemoval",
            "QuerySleep",
            "QueryHibernate",
            "AddStart",
            "AddMemory",
        ];
        assert_eq!(first, expected);
    }

    #[test]
    fn every_step_is_in_some_sequence() {
        let sequences = of_length(4);
        for step in STEPS {
            assert!(sequences.iter().any(|steps| steps.contains(&step)), "{step} is never taken");
        }
    }

    #[test]
    fn from_everywhere_there_is_a_way_back_to_a_device_that_works_or_is_gone() {
        for steps in of_length(5) {
            let follow = |state: State, step: &Step| state.after(*step).expect("it was allowed before");
            let end = steps.iter().fold(State::START, follow);
            let back = end.way_back().iter().fold(end, follow);
            assert!(matches!(back.device, Device::Started | Device::Gone), "{steps:?}");
            assert_eq!((back.power, back.addition), (Power::Working, Addition::None), "{steps:?}");
        }
    }

    #[test]
    fn no_two_sequences_are_the_same() {
        let mut sequences = up_to(4);
        let count = sequences.len();
        sequences.sort();
        sequences.dedup();
        assert_eq!(sequences.len(), count);
        for length in 1..=6 {
            println!("{} of length {length}", of_length(length).len());
        }
    }
}
