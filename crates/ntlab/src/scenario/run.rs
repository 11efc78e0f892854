//! Runs a scenario.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    rc::Rc,
};

use windows_sys::Win32::Foundation::STATUS_INVALID_HANDLE;

use super::{
    Driver, Scenario, Step,
    values::{Expect, Hex},
};
use crate::{
    config::Config,
    hot_add::NewProcessor,
    machine::{Machine, Outcome, System},
    pnp::{Device, DeviceState},
    user::{Completion, Handle, Pending, Request, Status},
};

impl Scenario {
    /// Runs it on a machine that [`Scenario::config`] made, and on which only chance may be another.
    ///
    /// # Panics
    ///
    /// Where a machine cannot be made so.
    #[must_use]
    pub fn run(&self, config: Config) -> Outcome<()> {
        let machine = Machine::new(config).unwrap_or_else(|error| panic!("{error}"));
        machine.run(|system| {
            let bench = Bench::new(system, self);
            bench.run(self);
            bench.end(self);
        })
    }
}

type Handles<'k> = BTreeMap<String, Rc<Handle<'k>>>;

/// What all threads of a scenario share.
struct Bench<'k> {
    system: &'k System,
    devices: BTreeMap<String, Device>,
    /// What `before` opened.
    handles: RefCell<Handles<'k>>,
    threads: Cell<usize>,
}

impl<'k> Bench<'k> {
    fn new(system: &'k System, scenario: &Scenario) -> Rc<Self> {
        scenario.drivers().for_each(|driver| system.install(driver.package()));
        let plug = |device: &super::Device| (device.name.clone(), system.plug(device.hardware.spec()));
        let devices = scenario.devices.iter().map(plug).collect();
        Rc::new(Self { system, devices, handles: RefCell::default(), threads: Cell::new(scenario.threads.len()) })
    }

    fn run(self: &Rc<Self>, scenario: &Scenario) {
        let mut first = Actor::new(self);
        first.run(&scenario.before);
        self.handles.borrow_mut().append(&mut first.handles);
        let k = &self.system.kernel;
        let waiting = k.thread_id();
        for (number, thread) in scenario.threads.iter().cloned().enumerate() {
            let bench = Rc::clone(self);
            self.system.spawn(&format!("user {number}"), move |system| {
                let mut actor = Actor::new(&bench);
                for _ in 0..thread.repeat {
                    actor.run(&thread.steps);
                }
                drop(actor);
                bench.threads.set(bench.threads.get() - 1);
                system.kernel.wake(waiting);
            });
        }
        while self.threads.get() > 0 {
            k.park("the scenario's threads", None);
        }
        first.run(&scenario.after);
    }

    /// Everything is closed; the driver goes and leaves nothing.
    fn end(&self, scenario: &Scenario) {
        for handle in self.handles.take().into_values() {
            handle.close_for_all();
        }
        self.system.settle();
        for Driver { service, unload, .. } in scenario.drivers() {
            if *unload && self.system.is_loaded(service) {
                let unloaded = self.system.unload(service);
                assert!(unloaded.is_ok(), "the driver {service} does not unload: {unloaded:?}");
            }
        }
    }

    /// A device, or what a device's driver has reported.
    fn device(&self, name: &str) -> Device {
        let mut parts = name.split('/');
        let plugged = parts.next().map(|name| self.devices[name]);
        let found = parts.try_fold(plugged, |bus, instance| bus.map(|bus| bus.child(self.system, instance)));
        found.flatten().unwrap_or_else(|| panic!("there is no device \"{name}\" now"))
    }
}

/// A thread.
struct Actor<'k> {
    bench: Rc<Bench<'k>>,
    system: &'k System,
    handles: Handles<'k>,
    requests: BTreeMap<String, Pending<'k>>,
}

const INVALID_HANDLE: Status = Status(STATUS_INVALID_HANDLE);

const fn refused() -> Completion {
    Completion { status: INVALID_HANDLE, information: 0, output: Vec::new() }
}

impl<'k> Actor<'k> {
    fn new(bench: &Rc<Bench<'k>>) -> Self {
        Self { bench: Rc::clone(bench), system: bench.system, handles: BTreeMap::new(), requests: BTreeMap::new() }
    }

    fn run(&mut self, steps: &[Step]) {
        for step in steps {
            self.step(step);
        }
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Open { .. } | Step::Close { .. } => self.handle(step),
            Step::Read { handle, length, offset, request, expect, returns } => {
                let sent = Request::Read { offset: *offset, length: *length };
                self.send(handle, &sent, request.as_ref(), ("read", expect, returns.as_ref()));
            }
            Step::Write { handle, data, offset, request, expect } => {
                let sent = Request::Write { offset: *offset, data: data.0.clone() };
                self.send(handle, &sent, request.as_ref(), ("write", expect, None));
            }
            Step::Control { handle, code, input, output, request, expect, returns } => {
                let sent = Request::Control { code: *code, input: input.0.clone(), output: *output };
                self.send(handle, &sent, request.as_ref(), ("control", expect, returns.as_ref()));
            }
            Step::Wait { request, expect, returns } => {
                if let Some(pending) = self.requests.remove(request) {
                    judge(("the request", expect, returns.as_ref()), &pending.wait());
                }
            }
            Step::Cancel { request } => {
                self.requests.get(request).map(Pending::cancel);
            }
            Step::Pause { us } => self.system.sleep(us.saturating_mul(1000)),
            Step::Settle {} => self.system.settle(),
            _ => self.administer(step),
        }
    }

    fn handle(&mut self, step: &Step) {
        match step {
            Step::Open { handle, interface, number, path, access, expect } => {
                // The one of that name before it is closed first.
                self.handles.remove(handle);
                let opened = match (interface, path) {
                    (Some(class), _) => self.system.open_interface(class.0, *number, (*access).into()),
                    (None, path) => self.system.open(path.as_deref().unwrap_or_default(), (*access).into()),
                };
                expect.check("open", opened.as_ref().err().copied().unwrap_or(Status::SUCCESS));
                self.handles.extend(opened.ok().map(|opened| (handle.clone(), Rc::new(opened))));
            }
            Step::Close { handle } => {
                let closed = self.handles.remove(handle).or_else(|| self.bench.handles.borrow_mut().remove(handle));
                closed.inspect(|closed| closed.close_for_all());
            }
            _ => unreachable!("the other steps are no handle's"),
        }
    }

    fn send(&mut self, handle: &str, sent: &Request, name: Option<&String>, check: Check<'_>) {
        let shared = || self.bench.handles.borrow().get(handle).cloned();
        let handle = self.handles.get(handle).cloned().or_else(shared);
        let pending = handle.map(|handle| handle.submit(sent));
        match (pending, name) {
            (None, _) => judge(check, &refused()),
            (Some(pending), Some(name)) => drop(self.requests.insert(name.clone(), pending)),
            (Some(pending), None) => judge(check, &pending.wait()),
        }
    }

    fn administer(&self, step: &Step) {
        let system = self.system;
        let on = |device: &str| self.bench.device(device);
        let ended = |what: &str, expect: &Expect, result: Result<(), Status>| {
            expect.check(what, result.err().unwrap_or(Status::SUCCESS));
        };
        match step {
            Step::Rebalance { device: Some(device) } => drop(on(device).rebalance(system)),
            Step::Rebalance { device: None } => drop(system.rebalance()),
            Step::QueryStop(step) => ended("query-stop", &step.expect, on(&step.device).query_stop(system)),
            Step::QueryRemove(step) => ended("query-remove", &step.expect, on(&step.device).query_remove(system)),
            Step::Disable(step) => ended("disable", &step.expect, on(&step.device).disable(system)),
            Step::Enable(step) => ended("enable", &step.expect, on(&step.device).enable(system)),
            Step::SurpriseRemove { device } if on(device).state(system) != DeviceState::Removed => {
                on(device).surprise_remove(system);
            }
            Step::RaiseInterrupt { device } => on(device).raise_interrupt(system),
            Step::Eject(step) => ended("eject", &step.expect, on(&step.device).eject(system)),
            Step::FailNextStart { device } => on(device).fail_next_start(system),
            Step::AddProcessor { node, fails, expect } => {
                let new = NewProcessor { node: *node, place: None, fails: *fails };
                ended("add-processor", expect, system.add_processor(new).map(drop));
            }
            Step::AddMemory { mib, node, expect } => {
                ended("add-memory", expect, system.add_memory(mib.saturating_mul(1 << 20), *node));
            }
            Step::Sleep { state, expect } => ended("sleep", expect, system.sleep_system((*state).into())),
            _ => (),
        }
    }
}

/// What a step is called, how it may end and what it must return.
type Check<'a> = (&'a str, &'a Expect, Option<&'a Hex>);

fn judge((what, expect, returns): Check<'_>, done: &Completion) {
    expect.check(what, done.status);
    if let Some(returns) = returns {
        let output = Hex(done.output.clone());
        assert!(output == *returns, "{what} returned {output}, expected was {returns}");
    }
}
