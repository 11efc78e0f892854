//! The power manager: system sleep, device power requests ("Power IRPs for the System", "Power IRPs for Individual Devices").

use std::{
    cell::{Cell, RefCell},
    cmp::Reverse,
    collections::{BTreeMap, VecDeque},
    fmt,
    rc::Rc,
};

use windows_sys::{
    Wdk::{
        Foundation::DEVICE_OBJECT,
        System::SystemServices::{IRP_MJ_POWER, IRP_MN_QUERY_POWER, IRP_MN_SET_POWER},
    },
    Win32::System::Power::{PowerSystemHibernate, PowerSystemSleeping3, PowerSystemWorking},
};

use crate::{
    at,
    events::Kind,
    finding::Finding,
    io::{
        device, driver, irp,
        layout::Words,
        lost, rules,
        send::{self, IrpParameters},
    },
    kernel::Kernel,
    machine::System,
    memory::Ptr,
    pnp::{self, DeviceState, Devnode, request, worker},
    user::Status,
};

/// `DRIVER_POWER_STATE_FAILURE`.
const POWER_STATE_FAILURE: u32 = 0x9F;
/// A power request was not completed in time; a device object was stuck.
const NOT_COMPLETED: u64 = 0x3;
/// How long drivers may keep a power request: 10 minutes.
const PATIENCE: u64 = 600_000_000_000;
/// How long the system sleeps.
const SLEEP: u64 = 1_000_000_000;
/// `SystemPowerState` and `DevicePowerState` of `POWER_STATE_TYPE`.
const SYSTEM_STATE: u64 = 0;
const DEVICE_STATE: u64 = 1;
/// `PowerActionSleep` and `PowerActionHibernate`.
const ACTION_SLEEP: u64 = 2;
const ACTION_HIBERNATE: u64 = 3;

/// A state to put the system into and wake it from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SystemState {
    /// Sleep: memory stays, devices lose power.
    S3,
    /// Hibernation.
    S4,
    /// What hot replace uses: devices are quiet as for S4, and the system goes on at once.
    PseudoS4,
}

/// A device power request that a driver asked for.
struct Requested {
    /// The device object it was asked for.
    device: Ptr<DEVICE_OBJECT>,
    minor: u8,
    state: u32,
    completion: u64,
    context: u64,
}

/// What the power manager of one machine knows.
#[derive(Default)]
pub struct Power {
    states: RefCell<BTreeMap<(u64, u64), u32>>,
    /// Device power requests that wait for the one before them in their stack, by the stack's lowest device.
    queues: RefCell<BTreeMap<u64, VecDeque<Requested>>>,
    under_way: Cell<usize>,
}

impl fmt::Debug for Power {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Power").field("under_way", &self.under_way.get()).finish_non_exhaustive()
    }
}

impl Power {
    /// Notes the state of a device and returns the one before (`PoSetPowerState`).
    pub fn set_state(&self, device: u64, kind: u64, state: u32) -> u32 {
        self.states.borrow_mut().insert((device, kind), state).unwrap_or(0)
    }

    /// Whether the driver of a device said that the device is in a state below D0.
    fn is_reported_off(&self, device: Ptr<DEVICE_OBJECT>) -> bool {
        /// `PowerDeviceD0`.
        const ON: u32 = 1;
        self.states.borrow().get(&(device.address(), DEVICE_STATE)).is_some_and(|&state| state > ON)
    }

    /// Whether no device power request is under way.
    pub const fn is_quiet(&self) -> bool {
        self.under_way.get() == 0
    }

    /// Has a device power request sent to the stack of `device` (`PoRequestPowerIrp`): one at a time for each stack, by a system thread.
    pub fn request(
        &self,
        k: &Kernel,
        device: Ptr<DEVICE_OBJECT>,
        minor: u8,
        state: u32,
        (completion, context): (u64, u64),
    ) {
        let stack = device::bottom_of_stack(device);
        let requested = Requested { device, minor, state, completion, context };
        self.under_way.set(self.under_way.get() + 1);
        let mut queues = self.queues.borrow_mut();
        if let Some(queue) = queues.get_mut(&stack.address()) {
            queue.push_back(requested);
            return;
        }
        queues.insert(stack.address(), VecDeque::new());
        drop(queues);
        k.spawn("power request", move |k| send_requests(k, stack, requested));
    }
}

/// Sends the device power requests of a stack, one after the other.
fn send_requests(k: &Kernel, stack: Ptr<DEVICE_OBJECT>, first: Requested) {
    let mut next = Some(first);
    while let Some(requested) = next.take() {
        send_requested(k, stack, &requested);
        k.power.under_way.set(k.power.under_way.get() - 1);
        let mut queues = k.power.queues.borrow_mut();
        next = queues.get_mut(&stack.address()).and_then(VecDeque::pop_front);
        if next.is_none() {
            queues.remove(&stack.address());
        }
    }
}

/// Sends one and waits for it. The driver's completion routine runs as soon as every driver is done, where the last one was.
fn send_requested(k: &Kernel, stack: Ptr<DEVICE_OBJECT>, requested: &Requested) {
    let &Requested { device, minor, state, completion, context } = requested;
    let words = [0, DEVICE_STATE, u64::from(state), 0];
    let done = Rc::new(Cell::new(false));
    let (end, waiting) = (Rc::clone(&done), k.thread_id());
    k.record(|| {
        Kind::Note(format!("power request {minor:#04x} D{} to a device stack", state.saturating_sub(1)).into())
    });
    send::send_then(k, stack, &IrpParameters::power(minor.into(), words), move |k, packet| {
        check_not_failed(k, stack, minor.into(), words, irp::status(packet));
        if completion != 0 {
            let status = at!(packet, IoStatus).address();
            let arguments = [device.address(), minor.into(), state.into(), context, status];
            k.call("power completion routine", completion, &arguments);
        }
        end.set(true);
        k.wake(waiting);
    });
    wait(k, stack, &done, "a device power request");
}

fn wait(k: &Kernel, stack: Ptr<DEVICE_OBJECT>, done: &Rc<Cell<bool>>, what: &str) {
    let deadline = k.now() + PATIENCE;
    while !done.get() {
        if !k.park("drivers to finish a power request", Some(deadline)) && !done.get() {
            kept_too_long(k, stack, what);
        }
    }
}

fn kept_too_long(k: &Kernel, stack: Ptr<DEVICE_OBJECT>, what: &str) -> ! {
    let sentence = format!("a driver kept {what} for 10 minutes");
    lost::kept(k, stack, POWER_STATE_FAILURE, [NOT_COMPLETED, 0, 0, 0], &sentence).raise()
}

/// Sends a system power request to a device and waits for it.
fn send_system(k: &Kernel, devnode: &Devnode, minor: u32, words: Words) -> i32 {
    k.record(|| {
        Kind::Note(format!("system power request {minor:#04x} S{} to device {}", words[2] - 1, devnode.id).into())
    });
    let answer = request::deliver(k, devnode, &IrpParameters::power(minor, words), PATIENCE);
    let status = answer.unwrap_or_else(|| kept_too_long(k, devnode.pdo, "a system power request")).status;
    check_not_failed(k, devnode.pdo, minor, words, status);
    status
}

/// Nobody may fail a request to set the system's power state, and one to set the device's only a bus driver whose device goes
/// ("`IRP_MN_SET_POWER`"). What drivers above it do was looked at when they did it.
fn check_not_failed(k: &Kernel, pdo: Ptr<DEVICE_OBJECT>, minor: u32, words: Words, status: i32) {
    if minor == IRP_MN_SET_POWER && status < 0 && !pnp::bus_fails(k, pdo, minor, words) {
        let sentence = format!("a driver failed a request to set a power state with {status:#010x}");
        Finding::bug_check(irp::IO_MANAGER_VIOLATION, [rules::MUST_NOT_FAIL, 0, 0, pdo.address()], sentence)
            .with_stack("the bus driver's dispatch routine", &[driver::routine(pdo, IRP_MJ_POWER)])
            .raise();
    }
}

/// A request of the power manager to all devices.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PowerRequest {
    /// `IRP_MN_QUERY_POWER` for a sleeping state; where a driver refuses it, the set-power request for the working state follows.
    Query(SystemState),
    /// `IRP_MN_SET_POWER` for a sleeping state.
    Sleep(SystemState),
    /// `IRP_MN_SET_POWER` for the working state: waking up, or the end of a query.
    Wake(SystemState),
}

fn send(k: &Kernel, request: PowerRequest) -> Result<(), Status> {
    let mut devices = k.pnp.devnodes.in_state(DeviceState::Started);
    if !matches!(request, PowerRequest::Wake(_)) {
        // What hangs below a device sleeps before it, and wakes after it.
        devices.sort_by_key(|devnode| Reverse(devnode.depth()));
    }
    match request {
        PowerRequest::Query(state) => query(k, &devices, state)?,
        PowerRequest::Sleep(state) => {
            for devnode in &devices {
                send_system(k, devnode, IRP_MN_SET_POWER, words(state, true));
                check_asleep(k, devnode);
            }
        }
        PowerRequest::Wake(state) => {
            for devnode in &devices {
                send_system(k, devnode, IRP_MN_SET_POWER, words(state, false));
            }
            k.block_until("devices to be in D0", |k| k.power.is_quiet(), Some(k.now() + PATIENCE));
        }
    }
    Ok(())
}

fn query(k: &Kernel, devices: &[Rc<Devnode>], state: SystemState) -> Result<(), Status> {
    for (asked, devnode) in devices.iter().enumerate() {
        let status = send_system(k, devnode, IRP_MN_QUERY_POWER, words(state, true));
        if status < 0 {
            for devnode in &devices[..=asked] {
                send_system(k, devnode, IRP_MN_SET_POWER, words(state, false));
            }
            return Err(Status(status));
        }
    }
    Ok(())
}

/// The parameters of a system power request, on the way down or up.
const fn words(state: SystemState, down: bool) -> Words {
    let (number, action) = match state {
        SystemState::S3 => (PowerSystemSleeping3, ACTION_SLEEP),
        SystemState::S4 | SystemState::PseudoS4 => (PowerSystemHibernate, ACTION_HIBERNATE),
    };
    let number = if down { number } else { PowerSystemWorking };
    [0, SYSTEM_STATE, number.cast_unsigned() as u64, action]
}

/// A device that is still in D0 when its system request is done loses power without its driver knowing, unless the driver, which may have
/// had no memory for a device request, says that it is prepared (`PoSetPowerState`).
fn check_asleep(k: &Kernel, devnode: &Devnode) {
    let prepared = device::stack_above(devnode.pdo).into_iter().any(|device| k.power.is_reported_off(device));
    if !prepared && devnode.hardware.as_ref().is_some_and(|hardware| hardware.is_powered()) {
        let sentence =
            format!("device {} is in D0 though the set-power request for the sleeping system is complete", devnode.id);
        Finding::bug_check(POWER_STATE_FAILURE, [0; 4], sentence).raise();
    }
}

impl System {
    /// Puts the system to sleep and wakes it, all devices with it. Returns when every device is in D0 again.
    ///
    /// # Errors
    ///
    /// What a driver answered to the query; the system did not sleep then.
    pub fn sleep_system(&self, state: SystemState) -> Result<(), Status> {
        worker::run(&self.kernel, "system sleep", move |k| {
            send(k, PowerRequest::Query(state))?;
            send(k, PowerRequest::Sleep(state))?;
            if state != SystemState::PseudoS4 {
                k.sleep(SLEEP);
            }
            send(k, PowerRequest::Wake(state))
        })
    }

    /// Sends all working devices one power request and waits for it; the system is left as it is then, asleep for example. Threads of
    /// user processes go on.
    ///
    /// # Errors
    ///
    /// What a driver answered to a query.
    pub fn send_power(&self, request: PowerRequest) -> Result<(), Status> {
        worker::run(&self.kernel, "a power request", move |k| send(k, request))
    }
}
