//! Whether a scenario makes sense, and where in its file it does not.

use std::collections::BTreeSet;

use serde::{Deserialize, de::IgnoredAny};
use toml::Spanned;

use super::{Hardware, Scenario, Step};
use crate::pnp::DeviceSpec;

/// What does not make sense.
#[derive(Debug)]
pub(super) struct Mistake {
    place: Place,
    pub(super) message: String,
}

/// Which part of the file it is in.
#[derive(Clone, Copy, Debug)]
enum Place {
    Machine,
    Device(usize),
    Before(usize),
    After(usize),
    Thread(usize),
    Step(usize, usize),
}

/// The file once more, for its places.
#[derive(Deserialize)]
struct Layout {
    machine: Option<Spanned<IgnoredAny>>,
    #[serde(default)]
    device: Vec<Spanned<IgnoredAny>>,
    #[serde(default)]
    before: Vec<Spanned<IgnoredAny>>,
    #[serde(default)]
    after: Vec<Spanned<IgnoredAny>>,
    #[serde(default)]
    thread: Vec<Spanned<ThreadLayout>>,
}

#[derive(Deserialize)]
struct ThreadLayout {
    steps: Vec<Spanned<IgnoredAny>>,
}

impl Mistake {
    pub(super) fn place_in(&self, text: &str) -> Option<(usize, usize)> {
        let layout: Layout = toml::from_str(text).ok()?;
        let span = match self.place {
            Place::Machine => layout.machine.as_ref()?.span(),
            Place::Device(index) => layout.device.get(index)?.span(),
            Place::Before(index) => layout.before.get(index)?.span(),
            Place::After(index) => layout.after.get(index)?.span(),
            Place::Thread(index) => layout.thread.get(index)?.span(),
            Place::Step(thread, step) => layout.thread.get(thread)?.get_ref().steps.get(step)?.span(),
        };
        Some(place(text, span.start))
    }
}

/// Line and column, from 1, of a byte offset.
pub(super) fn place(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (line, before[start..].chars().count() + 1)
}

/// What a step can name.
#[derive(Clone, Default)]
pub(super) struct Known<'a> {
    devices: BTreeSet<&'a str>,
    handles: BTreeSet<&'a str>,
    requests: BTreeSet<&'a str>,
}

impl<'a> Known<'a> {
    /// What all steps of a scenario can name.
    pub(super) fn of(scenario: &'a Scenario) -> Self {
        let devices = scenario.devices.iter().map(|device| device.name.as_str()).collect();
        Self { devices, ..Self::default() }
    }

    /// What the steps of a thread can name besides, at its start.
    pub(super) fn for_thread(&self) -> Self {
        Self { requests: BTreeSet::new(), ..self.clone() }
    }

    /// The steps that name only what there is.
    pub(super) fn keep(&mut self, steps: &'a [Step]) -> Vec<Step> {
        steps.iter().filter(|step| self.add(step).is_ok()).cloned().collect()
    }

    /// Takes note of a step; what is wrong with it.
    fn add(&mut self, step: &'a Step) -> Result<(), String> {
        if let Step::Open { interface, path, .. } = step
            && interface.is_some() == path.is_some()
        {
            return Err("open takes either an interface or a path".into());
        }
        let unknown = |kind: &str, name: &str, how: &str| Err(format!("there is no {kind} \"{name}\": {how}"));
        let is_known = |name: &&str| name.split('/').next().is_some_and(|name| self.devices.contains(name));
        if let Some(name) = step.device().filter(|name| !is_known(name)) {
            return unknown("device", name, "devices are named in [[device]]");
        }
        if let Some(name) = step.uses().filter(|name| !self.handles.contains(name)) {
            return unknown("handle", name, "it must be opened earlier in its thread or in `before`");
        }
        if let Some(name) = step.awaits().filter(|name| !self.requests.contains(name)) {
            return unknown("request", name, "it must be sent earlier in its thread");
        }
        self.handles.extend(step.opens());
        self.requests.extend(step.sends());
        Ok(())
    }
}

impl Scenario {
    /// Whether its parts fit together.
    pub(super) fn check(&self) -> Result<(), Mistake> {
        let at = |place: Place| move |message: String| Mistake { place, message };
        self.config().map_err(|error| error.to_string()).map_err(at(Place::Machine))?;
        let mut known = Known::of(self);
        for (index, device) in self.devices.iter().enumerate() {
            if let Hardware::Pci { bar, .. } = device.hardware
                && !(bar.is_power_of_two() && DeviceSpec::BAR_SIZES.contains(&bar))
            {
                return Err(at(Place::Device(index))("a BAR has a power of two of bytes, from 16 to 16 MiB".into()));
            }
            if self.devices[..index].iter().any(|other| other.name == device.name) {
                return Err(at(Place::Device(index))(format!("there are two devices \"{}\"", device.name)));
            }
        }
        for (index, step) in self.before.iter().enumerate() {
            known.add(step).map_err(at(Place::Before(index)))?;
        }
        for (thread, spec) in self.threads.iter().enumerate() {
            if spec.repeat == 0 {
                return Err(at(Place::Thread(thread))("a thread does its steps at least once".into()));
            }
            let mut known = known.for_thread();
            for (index, step) in spec.steps.iter().enumerate() {
                known.add(step).map_err(at(Place::Step(thread, index)))?;
            }
        }
        for (index, step) in self.after.iter().enumerate() {
            known.add(step).map_err(at(Place::After(index)))?;
        }
        Ok(())
    }
}
