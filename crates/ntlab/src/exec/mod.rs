//! Runs driver code on this processor: the border between the driver's stack and the lab's, the loader, faults, stack traces.
//!
//! A simulated thread has two stacks: a kernel stack of the real size, on which driver code runs, and a host stack, on which kernel
//! functions run. A kernel call switches from one to the other, a call into the driver switches back; both are plain nested calls, so a
//! kernel function reads straight through and may wait at any depth: the scheduler suspends the host stack, with the kernel stack
//! frozen inside.

mod blocks;
mod border;
mod coverage;
mod crt;
mod detour;
mod entry;
mod event;
mod exception;
mod image;
mod imports;
mod kept;
mod registers;
mod shared_data;
mod signals;
mod stacks;
mod step;
mod symbols;
#[cfg(test)]
pub(crate) mod tests;
mod thunks;
mod unwind;
mod variables;
mod watchdog;

use std::{
    any::Any,
    cell::{Cell, RefCell},
    collections::BTreeSet,
    ptr::NonNull,
    rc::Rc,
};

use iced_x86::{Decoder, DecoderOptions, Instruction};

pub(crate) use self::exception::{CONTINUE_EXECUTION, CONTINUE_SEARCH, TARGET_UNWIND, UNWINDING, at_base, take};
pub use self::{
    border::{Entered, call, enter},
    exception::Exception,
    image::{Image, LoadError, Missing, Section},
    imports::{Import, imports},
    registers::Bus,
    stacks::{Context, HostStack, KernelStack, Stacks},
    step::{Accesses, BlockStart, MemoryAccess, Observer, Step},
    symbols::StackFrame,
};
use self::{
    coverage::Coverage,
    detour::Detours,
    entry::Border,
    event::Event,
    registers::Registers,
    step::{Source, Stepper},
    thunks::Thunks,
    variables::Variables,
};
use crate::{
    config::Config,
    exports::Export,
    interleavings::Site,
    irql::Irql,
    kernel::Kernel,
    memory::{Ptr, Space, host},
    sched::ThreadId,
};

/// Where a machine was when something stopped it.
#[derive(Clone, Debug)]
pub struct Place {
    /// Where the driver was, as [`Exec::driver_stack`] says it.
    pub stack: Rc<[u64]>,
    /// The IRQL.
    pub irql: Irql,
    /// The processor.
    pub processor: u32,
    /// The thread.
    pub thread: ThreadId,
}

/// What one machine needs to run driver code.
#[derive(Debug)]
pub struct Exec {
    pub(crate) space: Rc<Space>,
    border: NonNull<Border>,
    thunks: Thunks,
    variables: Variables,
    /// Every image that was ever loaded: stacks may still lead through it.
    images: RefCell<Vec<Rc<Image>>>,
    /// Accesses to device registers.
    pub registers: Registers,
    /// Stacks of simulated threads.
    pub stacks: Stacks,
    /// What steps driver code, where the configuration asks for it.
    stepper: Option<Stepper>,
    /// Which blocks have run, where the configuration asks for that and nothing steps.
    coverage: Option<Coverage>,
    /// Where driver code jumps to the lab, unless something steps it or notes its blocks.
    detours: Option<RefCell<Detours>>,
    /// Where the machine was when something first stopped it.
    place: RefCell<Option<Place>>,
    /// Where the thread that runs was on its host stack when the interrupt or DPC began that it serves; 0 where it serves none.
    interrupted: Cell<u64>,
    /// What unwinds, while it jumps over the driver's frames.
    stopped: RefCell<Option<Box<dyn Any + Send>>>,
}

impl Exec {
    /// What a machine with these addresses needs.
    #[must_use]
    pub fn new(space: &Rc<Space>, config: &Config) -> Self {
        let stepper = Stepper::new(space, config);
        let exec = Self {
            space: Rc::clone(space),
            border: border::allocate(space),
            thunks: Thunks::new(space, stepper.is_some()),
            variables: Variables::new(space),
            images: RefCell::default(),
            registers: Registers::new(space),
            stacks: Stacks::new(space),
            coverage: (config.note_blocks && stepper.is_none()).then(Coverage::default),
            detours: (!config.note_blocks && stepper.is_none()).then(RefCell::default),
            stepper,
            place: RefCell::new(None),
            interrupted: Cell::new(0),
            stopped: RefCell::new(None),
        };
        if let Some(stepper) = &exec.stepper {
            stepper.attach(exec.border());
        }
        exec
    }

    /// The address at which the driver can call an exported function: for imports, and for tables of functions such as
    /// `DMA_OPERATIONS`.
    pub fn thunk(&self, export: &'static Export) -> u64 {
        self.thunks.address(export)
    }

    /// The address of a C runtime function that the kernel exports and that is no kernel call.
    pub fn runtime_function(&self, name: &str) -> Option<u64> {
        self.thunks.runtime_function(name)
    }

    /// The address of a variable that the kernel exports.
    pub fn variable(&self, name: &str) -> Option<u64> {
        self.variables.address(name)
    }

    /// The address of the object type that a variable holds.
    pub fn object_type(&self, variable: &str) -> Option<u64> {
        self.variable(variable).map(|place| Ptr::new(place).read())
    }

    /// Notes where the machine is, unless that was noted before: what stops it unwinds from here.
    pub fn note_place(&self, k: &Kernel) {
        let mut place = self.place.borrow_mut();
        if place.is_none() {
            let (irql, processor, thread) = (k.irql(), k.processor_index(), k.thread_id());
            *place = Some(Place { stack: self.driver_stack(), irql, processor, thread });
        }
    }

    /// Where the machine was when something first stopped it.
    pub fn place(&self) -> Option<Place> {
        self.place.borrow().clone()
    }

    /// Runs `serve`, an interrupt or DPCs, on the stack of the thread that runs: what it interrupts is none of its callers.
    pub fn interrupt(&self, serve: impl FnOnce()) {
        let before = self.interrupted.replace(self.border().host_sp.get());
        serve();
        self.interrupted.set(before);
    }

    /// The place in an image that was loaded; `None` for other addresses.
    pub(crate) fn site(&self, address: u64) -> Option<Site> {
        let images = self.images.borrow();
        let image = images.iter().find(|image| (image.base..image.base + image.length).contains(&address))?;
        let number = images.iter().position(|other| other.path == image.path)?;
        Some(Site { image: number.try_into().ok()?, offset: (address - image.base).try_into().ok()? })
    }

    const fn border(&self) -> &Border {
        // SAFETY: the page of the border was opened by `border::allocate` and stays as long as `space`, which `self` holds; it is
        // plain cells, of which any bytes are a value, and only this thread uses it.
        unsafe { self.border.as_ref() }
    }

    /// Where the thread that runs is on its two stacks: to be kept over every suspend of its coroutine.
    pub const fn save(&self) -> Context {
        let border = self.border();
        Context {
            host_sp: border.host_sp.get(),
            guest_sp: border.guest_sp.get(),
            stack_low: border.stack_low.get(),
            interrupted: self.interrupted.get(),
        }
    }

    /// Goes on with what [`Exec::save`] returned, or with the fresh context of a kernel stack.
    pub fn restore(&self, context: Context) {
        let border = self.border();
        border.host_sp.set(context.host_sp);
        border.guest_sp.set(context.guest_sp);
        border.stack_low.set(context.stack_low);
        self.interrupted.set(context.interrupted);
    }

    /// How many instructions of drivers have run; None where they are not stepped.
    pub fn instructions(&self, k: &Kernel) -> Option<u64> {
        self.stepper.as_ref().map(|stepper| stepper.executed(k))
    }

    /// The starts of basic blocks that have run since [`Exec::forget_blocks`]; none where nobody asked for them.
    pub fn blocks(&self) -> BTreeSet<BlockStart> {
        self.stepper.as_ref().map_or_else(|| self.reached(), |stepper| stepper.blocks(self))
    }

    /// Forgets which blocks have run.
    pub fn forget_blocks(&self) {
        if let Some(stepper) = &self.stepper {
            stepper.forget_blocks();
        }
        self.rearm();
    }

    /// Lets `observer` look at each instruction of drivers before it runs, or nobody. False where driver code is not stepped.
    pub fn observe(&self, k: &Kernel, observer: Option<Observer>) -> bool {
        let Some(stepper) = &self.stepper else { return false };
        stepper.observe(k, observer);
        true
    }

    /// The driver's instruction behind an address in code that the lab made of it, else the address itself.
    pub fn original(&self, rip: u64) -> u64 {
        let rip = self.registers.original(rip);
        let rip = self.detours.as_ref().and_then(|detours| detours.borrow().original(rip)).unwrap_or(rip);
        self.stepper.as_ref().map_or(rip, |stepper| stepper.original(rip))
    }

    fn is_fetch(&self, event: &Event) -> bool {
        self.stepper.as_ref().is_some_and(|stepper| stepper.is_fetch(event.rip, event.address))
    }

    /// Where the kernel calls the driver's `function`.
    fn entry(&self, k: &Kernel, function: u64) -> u64 {
        self.stepper.as_ref().map_or(function, |stepper| stepper.entry(k, function))
    }

    /// Whether the address lies in the C runtime functions.
    fn is_runtime(&self, address: u64) -> bool {
        self.thunks.runtime_offset(address).is_some()
    }

    /// The C runtime function that begins at an address.
    fn runtime_name(&self, address: u64) -> Option<&'static str> {
        crt::starting_at(self.thunks.runtime_offset(address)?)
    }

    /// Gives `act` the code from an address on, as it was loaded; None where no code of a driver or the runtime is.
    fn with_code<T>(&self, rip: u64, act: impl FnOnce(Source<'_>) -> T) -> Option<T> {
        if let Some(image) = self.images.borrow().iter().find(|image| image.contains(rip)) {
            let bytes = image.bytes.get(host::to_usize(rip - image.base)..)?;
            return Some(act(Source { bytes, rip, counts: true }));
        }
        let offset = self.thunks.runtime_offset(rip)?;
        let bytes = crt::code().get(host::to_usize(offset)..)?;
        Some(act(Source { bytes, rip, counts: false }))
    }

    /// The instruction at an address of an image, as it was loaded.
    fn instruction(&self, rip: u64) -> Option<Instruction> {
        let images = self.images.borrow();
        let image = images.iter().find(|image| image.contains(rip))?;
        let bytes = image.bytes.get(host::to_usize(rip - image.base)..)?;
        Some(Decoder::with_ip(64, bytes, rip, DecoderOptions::NONE).decode())
    }

    /// Whether an address lies in the kernel stack of the thread that runs.
    pub(crate) const fn is_own_stack(&self, address: u64) -> bool {
        stacks::holds(self.border().stack_low.get(), address)
    }

    /// The image and the section at an address, and its offset in the image.
    pub(crate) fn section(&self, address: u64) -> Option<(String, String, u64)> {
        let images = self.images.borrow();
        let image = images.iter().find(|image| image.contains(address))?;
        let section =
            image.sections.iter().find(|section| (section.start..section.start + section.length).contains(&address))?;
        let module = image.path.file_stem()?.to_string_lossy().into_owned();
        Some((module, section.name.clone(), address - image.base))
    }

    fn block_start(&self, rip: u64) -> Option<BlockStart> {
        let images = self.images.borrow();
        let image = images.iter().position(|image| image.contains(rip))?;
        let offset = u32::try_from(rip - images[image].base).ok()?;
        Some(BlockStart { image: u32::try_from(image).ok()?, offset })
    }
}
