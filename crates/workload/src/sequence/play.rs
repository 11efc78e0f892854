//! A sequence, played on a machine whose device is in use.

use std::path::Path;

use ntlab::{
    hot_add::{Addition, NewProcessor},
    machine::System,
    pnp::{Device, DeviceState, PnpRequest},
    power::PowerRequest,
    user::Status,
};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{
    step::{State, Step},
    visitors::Visitors,
};
use crate::{open, package, quick_edu};

/// Users of the device.
const VISITORS: u32 = 3;
/// The longest pause between two steps, in virtual nanoseconds: a few requests long.
const LONGEST_PAUSE: u64 = 60_000;
/// Virtual nanoseconds that requests may take at the end: a minute.
const PATIENCE: u64 = 60_000_000_000;
/// Bytes of a memory module.
const MODULE: u64 = 256 << 20;
const UNSUCCESSFUL: Status = Status(0xC000_0001_u32.cast_signed());

/// Plays `steps` with the driver in the file `sys` and an `edu` device that several users use.
///
/// From where they lead it goes back to a device that works, and unloads the driver. A sentence for each promise that was broken.
///
/// # Panics
///
/// Where the device does not start at first, or a step is none that Windows may take then.
#[must_use]
pub fn play(system: &System, sys: &Path, steps: &[Step], seed: u64) -> Vec<String> {
    system.install(package(sys));
    let device = system.plug(quick_edu());
    assert_eq!(device.state(system), DeviceState::Started, "the driver starts its device");
    let mut player = Player {
        system,
        device,
        visitors: Visitors::start(system, VISITORS, seed),
        random: ChaCha8Rng::seed_from_u64(seed),
        state: State::START,
        addition: None,
        broken: Vec::new(),
    };
    player.pause();
    for &step in steps {
        player.take(step);
    }
    for step in player.state.way_back() {
        player.take(step);
    }
    player.end()
}

struct Player<'k> {
    system: &'k System,
    device: Device,
    visitors: Visitors<'k>,
    random: ChaCha8Rng,
    state: State,
    addition: Option<Addition>,
    broken: Vec<String>,
}

impl Player<'_> {
    fn pause(&mut self) {
        self.system.sleep(self.random.random_range(0..LONGEST_PAUSE));
    }

    fn take(&mut self, step: Step) {
        let after = self.state.after(step).expect("Windows may take this step now");
        if let Err(status) = self.act(step) {
            self.broken.push(format!("{step} was answered with {status}"));
        }
        self.state = after;
        self.pause();
    }

    fn act(&mut self, step: Step) -> Result<(), Status> {
        let (system, device) = (self.system, self.device);
        match step {
            Step::Pnp(request) => return self.send(request),
            Step::FailedRestart => {
                device.fail_next_start(system);
                self.visitors.expect_gone();
                let answer = device.send(system, PnpRequest::Restart);
                return if answer == Err(UNSUCCESSFUL) { Ok(()) } else { answer.and(Err(Status::SUCCESS)) };
            }
            Step::Enable => {
                self.visitors.leave();
                system.settle();
                device.enable(system)?;
                self.visitors.forget_buffer();
                self.visitors.expect_back();
                self.visitors.return_();
            }
            Step::QuerySleep | Step::QueryHibernate => {
                let state = self.state.after(step).and_then(State::sleep).expect("the step asks for a state");
                return system.send_power(PowerRequest::Query(state));
            }
            Step::Sleep => return system.send_power(PowerRequest::Sleep(self.asked())),
            Step::Wake => return system.send_power(PowerRequest::Wake(self.asked())),
            Step::AddStart => self.addition = Some(system.begin_addition(NewProcessor::default())?),
            Step::Activate => system.activate(self.addition.as_ref().expect("an addition was begun")),
            Step::AddComplete => {
                system.complete_addition(self.addition.take().expect("an addition was begun"));
            }
            Step::AddFailure => {
                system.fail_addition(self.addition.take().expect("an addition was begun"), UNSUCCESSFUL);
            }
            Step::AddMemory => return system.add_memory(MODULE, 0),
        }
        Ok(())
    }

    const fn asked(&self) -> ntlab::power::SystemState {
        self.state.sleep().expect("the system was asked to sleep")
    }

    fn send(&self, request: PnpRequest) -> Result<(), Status> {
        match request {
            // Windows does not ask on while the device is open.
            PnpRequest::QueryRemove => {
                self.visitors.leave();
                self.visitors.expect_gone();
                let answer = self.device.send(self.system, request);
                self.visitors.return_();
                return answer;
            }
            PnpRequest::SurpriseRemoval => self.visitors.expect_gone(),
            _ => {}
        }
        self.device.send(self.system, request)?;
        if request == PnpRequest::CancelRemove && self.state.device_was_asked() {
            self.visitors.leave();
            self.visitors.expect_back();
            self.visitors.return_();
        }
        Ok(())
    }

    /// Everything is back: the device answers, unless it is gone; no request is left, and the driver is unloaded, which stops the run if it
    /// leaves anything behind.
    fn end(mut self) -> Vec<String> {
        if self.state.is_alive() {
            self.answers();
        }
        let Self { system, visitors, mut broken, .. } = self;
        broken.extend(visitors.stop(PATIENCE));
        system.settle();
        broken.extend(system.outstanding_requests().into_iter().map(|request| format!("still there: {request}")));
        if system.is_loaded("hotadd")
            && let Err(error) = system.unload("hotadd")
        {
            broken.push(format!("the driver was not unloaded: {error}"));
        }
        broken
    }

    fn answers(&mut self) {
        let before = self.visitors.answered();
        let answer = open(self.system, 0).and_then(|device| crate::factorial(&device, 5));
        match answer {
            Ok(answer) if answer.factorial == 120 => {}
            other => self.broken.push(format!("in the end the device answered {other:?}")),
        }
        let deadline = self.system.now() + PATIENCE;
        while self.visitors.answered() == before && self.system.now() < deadline {
            self.system.sleep(LONGEST_PAUSE);
        }
        if self.visitors.answered() == before {
            self.broken.push("in the end the device answered no user any more".to_owned());
        }
    }
}
