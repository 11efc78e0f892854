//! Processors and memory that are added while the machine runs ("Dynamic Hardware Partitioning Architecture").

use std::{
    cell::{Cell, RefCell},
    mem,
    rc::Rc,
};

use windows_sys::{
    Wdk::System::SystemServices::{
        KE_PROCESSOR_CHANGE_NOTIFY_CONTEXT, KE_PROCESSOR_CHANGE_NOTIFY_STATE, KeProcessorAddCompleteNotify,
        KeProcessorAddFailureNotify, KeProcessorAddStartNotify,
    },
    Win32::{
        Foundation::{NTSTATUS, STATUS_INVALID_PARAMETER, STATUS_SUCCESS},
        System::{
            Kernel::PROCESSOR_NUMBER,
            Power::{GUID_DEVICE_MEMORY, GUID_DEVICE_PROCESSOR},
        },
    },
};

use crate::{
    at,
    events::Kind,
    finding::Finding,
    io::{lost, object},
    kernel::Kernel,
    machine::System,
    memory::Ptr,
    pnp::{self, notifications},
    rule::Rule,
    tracking::Tracked,
    user::Status,
};

/// The longest time from the start of a processor to AddComplete, in virtual nanoseconds.
const LONGEST_START: u64 = 200_000;

/// What processor is added, and how that goes.
#[derive(Clone, Default, Debug)]
pub struct NewProcessor {
    /// The NUMA node it is on; any, if none.
    pub node: Option<u16>,
    /// Its place in the layout, by processor index; the first free one of the node, if none.
    pub place: Option<u32>,
    /// It does not start, after every driver agreed, for this reason.
    pub fails: Option<Status>,
}

/// A processor change callback.
#[derive(Debug)]
struct Callback {
    handle: Ptr<u64>,
    function: u64,
    context: u64,
}

/// What a callback is told.
#[derive(Clone, Copy, Debug)]
struct Change {
    state: KE_PROCESSOR_CHANGE_NOTIFY_STATE,
    index: u32,
    status: NTSTATUS,
}

/// Hot add's state.
#[derive(Debug, Default)]
pub struct HotAdd {
    callbacks: RefCell<Vec<Rc<Callback>>>,
    /// A processor is being added, or the callbacks change.
    busy: Cell<bool>,
    /// A scenario has begun an addition and not ended it yet.
    begun: Cell<bool>,
    memory_devices: Cell<u32>,
}

impl HotAdd {
    /// Registers a callback (`KeRegisterProcessorChangeCallback`). With `existing` it is told at once of every active processor. Null
    /// where it refused one: the documents leave open whether the registration is then void, so that either may happen.
    pub fn register(&self, k: &Kernel, function: u64, context: u64, existing: bool) -> Ptr<u64> {
        let guard = Busy::wait(k);
        let handle = k.memory.allocate_object::<u64>();
        let callback = Rc::new(Callback { handle, function, context });
        k.tracking.made(k, Tracked::ProcessorCallback, handle.address(), String::new);
        let agreed = !existing || tell_of_existing(k, &callback);
        if !agreed && k.choices.once_in(2) {
            k.tracking.gone(Tracked::ProcessorCallback, handle.address());
            k.memory.free_object(handle);
            return Ptr::null();
        }
        self.callbacks.borrow_mut().push(callback);
        drop(guard);
        handle
    }

    /// Ends a registration (`KeDeregisterProcessorChangeCallback`); false if there is none with this handle.
    pub fn deregister(&self, k: &Kernel, handle: Ptr<u64>) -> bool {
        let guard = Busy::wait(k);
        let mut callbacks = self.callbacks.borrow_mut();
        let Some(place) = callbacks.iter().position(|callback| callback.handle == handle) else { return false };
        callbacks.remove(place);
        drop(callbacks);
        k.tracking.gone(Tracked::ProcessorCallback, handle.address());
        k.memory.free_object(handle);
        drop(guard);
        true
    }

    /// Whether a scenario has begun an addition that only it can end: what waits for that would wait for ever.
    pub const fn is_held(&self) -> bool {
        self.begun.get()
    }

    /// Whether a processor is being added, or a callback is told of those that are there.
    pub const fn is_busy(&self) -> bool {
        self.busy.get()
    }

    /// How many memory devices were added.
    pub const fn memory_devices(&self) -> u32 {
        self.memory_devices.get()
    }
}

/// What is found where a driver uses a processor number that was never active.
#[must_use]
pub fn inactive_processor(function: &str, group: u16, number: u8) -> Finding {
    let sentence = format!("{function} for processor {number} of group {group}, which was never active");
    Rule::InactiveProcessor.broken([group.into(), number.into(), 0], sentence)
}

/// What is found where a driver uses a set of processors of which none was ever active.
#[must_use]
pub fn inactive_processors(function: &str, group: u16, mask: u64) -> Finding {
    let sentence = format!("{function} for processors {mask:#x} of group {group}, none of which was ever active");
    Rule::InactiveProcessor.broken([group.into(), mask.trailing_zeros().into(), mask], sentence)
}

/// Only one processor is added at a time, and registrations wait for it.
struct Busy<'k>(&'k Cell<bool>);

impl<'k> Busy<'k> {
    fn wait(k: &'k Kernel) -> Self {
        while k.hot_add.busy.replace(true) {
            k.block_until("processor addition", |k| !k.hot_add.busy.get(), None);
        }
        Self(&k.hot_add.busy)
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.set(false);
    }
}

/// AddStart for every active processor, then AddComplete for every one; after a refusal AddFailure for those that were accepted.
fn tell_of_existing(k: &Kernel, callback: &Callback) -> bool {
    let active: Vec<u32> = k.sched.active().map(|processor| processor.index).collect();
    for (told, &index) in active.iter().enumerate() {
        let change = Change { state: KeProcessorAddStartNotify, index, status: STATUS_SUCCESS };
        if let Err(status) = tell(k, callback, change) {
            for &index in &active[..told] {
                let _ = tell(k, callback, Change { state: KeProcessorAddFailureNotify, index, status });
            }
            return false;
        }
    }
    for &index in &active {
        let _ = tell(k, callback, Change { state: KeProcessorAddCompleteNotify, index, status: STATUS_SUCCESS });
    }
    true
}

/// Calls a callback. An error is its veto, which only AddStart can have.
fn tell(k: &Kernel, callback: &Callback, change: Change) -> Result<(), NTSTATUS> {
    let place = k.sched.topology.place(change.index).expect("the processor has a place");
    let number = PROCESSOR_NUMBER { Group: place.group, Number: place.number, Reserved: 0 };
    let context = k.memory.allocate_object::<KE_PROCESSOR_CHANGE_NOTIFY_CONTEXT>();
    at!(context, State).write(change.state);
    at!(context, NtNumber).write(change.index);
    at!(context, Status).write(change.status);
    at!(context, ProcNumber).write(number);
    let status = k.memory.allocate_object::<NTSTATUS>();
    status.write(STATUS_SUCCESS);
    let told = context.cast::<u8>().read_bytes(size_of::<KE_PROCESSOR_CHANGE_NOTIFY_CONTEXT>());

    k.record(|| Kind::Note(format!("{} for processor {}", name_of(change.state), change.index).into()));
    let arguments = [callback.context, context.address(), status.address()];
    k.call("processor change callback", callback.function, &arguments);

    let unchanged = context.cast::<u8>().read_bytes(told.len()) == told;
    let answer = status.read();
    k.memory.free_object(context);
    k.memory.free_object(status);
    judge(callback, change.state, unchanged, answer)
}

/// A callback may change its operation status during AddStart only, and only to an error; its context never.
fn judge(
    callback: &Callback,
    state: KE_PROCESSOR_CHANGE_NOTIFY_STATE,
    context_unchanged: bool,
    answer: NTSTATUS,
) -> Result<(), NTSTATUS> {
    let violation = |sentence: String| -> ! {
        let finding = Rule::OperationStatus.broken([u64::from(answer.cast_unsigned()), 0, 0], sentence);
        finding.with_stack("the callback", &[callback.function]).raise()
    };
    let during = name_of(state);
    if !context_unchanged {
        let sentence = format!("the processor change callback wrote to its change context during {during}");
        Rule::ChangeContext.broken([0; 3], sentence).with_stack("the callback", &[callback.function]).raise();
    }
    if answer != STATUS_SUCCESS && state != KeProcessorAddStartNotify {
        violation(format!(
            "the processor change callback wrote {answer:#010x} to OperationStatus during {during}; only AddStart may"
        ));
    }
    if answer > 0 {
        violation(format!("the processor change callback wrote {answer:#010x}, which is no error, to OperationStatus"));
    }
    if answer < 0 { Err(answer) } else { Ok(()) }
}

const fn name_of(state: KE_PROCESSOR_CHANGE_NOTIFY_STATE) -> &'static str {
    if state == KeProcessorAddStartNotify {
        "AddStart"
    } else if state == KeProcessorAddCompleteNotify {
        "AddComplete"
    } else {
        "AddFailure"
    }
}

/// A processor that is being added: every driver has agreed to it. One that is dropped is neither complete nor failed, and keeps others
/// from being added.
#[must_use]
#[derive(Debug)]
pub struct Addition {
    index: u32,
    callbacks: Vec<Rc<Callback>>,
}

/// AddStart to everyone.
fn begin(k: &Kernel, new: &NewProcessor) -> Result<Addition, NTSTATUS> {
    let guard = Busy::wait(k);
    let index = free_place(k, new).ok_or(STATUS_INVALID_PARAMETER)?;
    let callbacks = k.hot_add.callbacks.borrow().clone();
    start(k, &callbacks, index)?;
    mem::forget(guard);
    Ok(Addition { index, callbacks })
}

impl Addition {
    /// The processor does not start: AddFailure to everyone.
    fn fail(self, k: &Kernel, status: NTSTATUS) {
        let _guard = Busy(&k.hot_add.busy);
        tell_all(k, &self.callbacks, Change { state: KeProcessorAddFailureNotify, index: self.index, status });
    }

    /// The processor runs threads from now on, and its device arrives.
    fn activate(&self, k: &Kernel) {
        k.sched.add_processor(k, self.index);
        let link = notifications::processor_link(self.index);
        k.pnp.notifications.hardware_arrived(k, &GUID_DEVICE_PROCESSOR, &link);
    }

    /// AddComplete to everyone.
    fn complete(self, k: &Kernel) -> u32 {
        let _guard = Busy(&k.hot_add.busy);
        tell_all(
            k,
            &self.callbacks,
            Change { state: KeProcessorAddCompleteNotify, index: self.index, status: STATUS_SUCCESS },
        );
        self.index
    }
}

/// Adds a processor: AddStart to everyone, the processor, AddComplete to everyone; its device's arrival somewhere around that.
fn add_processor(k: &Kernel, new: &NewProcessor) -> Result<u32, NTSTATUS> {
    let addition = begin(k, new)?;
    if let Some(Status(status)) = new.fails {
        addition.fail(k, status);
        return Err(status);
    }
    addition.activate(k);
    k.sleep(k.choices.between(0, LONGEST_START));
    // No thread is promised for both notifications.
    Ok(pnp::worker::on_thread(k, "processor addition", move |k| addition.complete(k)))
}

fn free_place(k: &Kernel, new: &NewProcessor) -> Option<u32> {
    let topology = &k.sched.topology;
    let free = |index: u32| !topology.is_active(index);
    if let Some(place) = new.place {
        return (topology.place(place).is_some() && free(place)).then_some(place);
    }
    let wanted =
        |&(index, place): &(u32, &crate::sched::Place)| free(index) && new.node.is_none_or(|node| node == place.node);
    (0..).zip(topology.places()).find(wanted).map(|(index, _)| index)
}

/// AddStart, in the order of registration; the first veto ends it, and those told before get AddFailure.
fn start(k: &Kernel, callbacks: &[Rc<Callback>], index: u32) -> Result<(), NTSTATUS> {
    for (told, callback) in callbacks.iter().enumerate() {
        let change = Change { state: KeProcessorAddStartNotify, index, status: STATUS_SUCCESS };
        if let Err(status) = tell(k, callback, change) {
            tell_all(k, &callbacks[..told], Change { state: KeProcessorAddFailureNotify, index, status });
            return Err(status);
        }
    }
    Ok(())
}

fn tell_all(k: &Kernel, callbacks: &[Rc<Callback>], change: Change) {
    for callback in callbacks {
        tell(k, callback, change).expect("only AddStart can be refused");
    }
}

impl System {
    /// Adds a processor and waits until every driver was told and the rebalance that follows is over; the processor device's arrival may
    /// come later. Its index, or why it was not added.
    ///
    /// # Errors
    ///
    /// A driver's veto, the failure asked for, or `STATUS_INVALID_PARAMETER` where there is no free place for it.
    pub fn add_processor(&self, new: NewProcessor) -> Result<u32, Status> {
        let k = &self.kernel;
        let added = pnp::worker::on_thread(k, "processor addition", move |k| add_processor(k, &new));
        let added = added.map_err(Status)?;
        pnp::worker::run(k, "rebalance", pnp::rebalance::after_hot_add);
        Ok(added)
    }

    /// Adds the processors of a module, one after the other, and waits until every driver was told of all of them and the one rebalance that
    /// follows is over. For each, its index, or why it was not added.
    pub fn add_processors(&self, module: Vec<NewProcessor>) -> Vec<Result<u32, Status>> {
        let k = &self.kernel;
        let add_all = move |k: &Kernel| module.iter().map(|new| add_processor(k, new).map_err(Status)).collect();
        let added: Vec<Result<u32, Status>> = pnp::worker::on_thread(k, "processor additions", add_all);
        if added.iter().any(Result::is_ok) {
            pnp::worker::run(k, "rebalance", pnp::rebalance::after_hot_add);
        }
        added
    }

    /// Tells every driver that a processor is about to start, and no more: see [`Addition`] for what may follow.
    ///
    /// # Errors
    ///
    /// As [`System::add_processor`].
    pub fn begin_addition(&self, new: NewProcessor) -> Result<Addition, Status> {
        let added = pnp::worker::on_thread(&self.kernel, "processor addition", move |k| begin(k, &new));
        self.kernel.hot_add.begun.set(added.is_ok());
        added.map_err(Status)
    }

    /// The processor of an addition that was begun runs threads from now on; drivers have not been told that it is complete.
    pub fn activate(&self, addition: &Addition) {
        addition.activate(&self.kernel);
    }

    /// Tells every driver that the addition is complete, after the processor was activated. No rebalance follows. The processor's index.
    pub fn complete_addition(&self, addition: Addition) -> u32 {
        self.kernel.hot_add.begun.set(false);
        pnp::worker::on_thread(&self.kernel, "processor addition", move |k| addition.complete(k))
    }

    /// Tells every driver that the processor did not start, instead of activating it.
    pub fn fail_addition(&self, addition: Addition, status: Status) {
        self.kernel.hot_add.begun.set(false);
        pnp::worker::on_thread(&self.kernel, "processor addition", move |k| addition.fail(k, status.0));
    }

    /// Adds a memory module. Its device arrives later; nothing is rebalanced.
    ///
    /// # Errors
    ///
    /// `STATUS_INVALID_PARAMETER`: no whole pages, or no place for so much.
    pub fn add_memory(&self, bytes: u64, node: u16) -> Result<(), Status> {
        let k = &self.kernel;
        k.memory.physical.add(bytes, node).ok_or(Status(STATUS_INVALID_PARAMETER))?;
        let device = k.hot_add.memory_devices.get();
        k.hot_add.memory_devices.set(device + 1);
        k.pnp.notifications.hardware_arrived(k, &GUID_DEVICE_MEMORY, &notifications::memory_link(device));
        Ok(())
    }

    /// Adds memory that no device announces, as what a hypervisor hands over at run time.
    ///
    /// # Errors
    ///
    /// As [`System::add_memory`].
    pub fn add_memory_without_device(&self, bytes: u64, node: u16) -> Result<(), Status> {
        self.kernel.memory.physical.add(bytes, node).map(drop).ok_or(Status(STATUS_INVALID_PARAMETER))
    }

    /// Signals or resets `\KernelObjects\HighMemoryCondition` ("Standard Event Objects"): whether much memory is free, which the lab
    /// leaves to the scenario.
    pub fn set_high_memory_condition(&self, plentiful: bool) {
        object::set_system_event(&self.kernel, r"\KernelObjects\HighMemoryCondition", plentiful);
    }

    /// Waits until nothing of what was set off is under way any more: notifications, PnP actions, power requests, work items, and those
    /// requests sent until then that cannot be cancelled, which drivers have to complete some time.
    pub fn settle(&self) {
        let k = &self.kernel;
        let is_quiet =
            |k: &Kernel| k.pnp.is_quiet(k) && k.power.is_quiet() && k.io.work_items.is_quiet() && !k.hot_add.busy.get();
        k.block_until("PnP to be quiet", is_quiet, None);
        let last = k.io.irps.last();
        let ended = move |k: &Kernel| lost::none(k, last);
        if !ended(k) && !k.block_until("requests to end", ended, Some(k.now() + lost::PATIENCE)) {
            lost::check(k, last, "its driver had 2 minutes");
        }
    }
}
