//! Where the driver is: walks its stack by the unwind information of its images, across kernel calls and calls back into it.

use std::{ops::ControlFlow, rc::Rc};

use pe_unwind_info::x86_64::{
    FunctionEpilogInstruction, FunctionTableEntries, Register, RuntimeFunction, UnwindInfo, UnwindInfoFlags,
    UnwindInfoHeader, UnwindState, XmmRegister,
};

use super::{
    Exec,
    entry::{CallFrame, TrapFrame},
    event::{EVENT_SIZE, Event, MARKER},
    image::Image,
    stacks::Context,
};
use crate::memory::{PageKind, Space};

/// A walk that takes longer is lost.
const DEEPEST: usize = 512;
pub(super) const RSP: usize = 4;
/// `jmp` with a displacement of 8 and of 32 bits.
const JUMP_SHORT: u8 = 0xEB;
const JUMP: u8 = 0xE9;

/// The registers of driver code.
#[derive(Clone)]
pub(super) struct Registers<'s> {
    pub space: &'s Space,
    /// rax rcx rdx rbx rsp rbp rsi rdi r8 to r15.
    pub values: [u64; 16],
    /// xmm0 to xmm15.
    pub xmm: [u128; 16],
}

/// A place in driver code with what the registers hold there.
#[derive(Clone)]
pub(super) struct Position<'s> {
    pub rip: u64,
    pub registers: Registers<'s>,
    /// Whether `rip` is of the instruction itself and not behind a call.
    pub exact: bool,
}

/// What the unwind information says about the function at a [`Position`].
pub(super) struct Frame {
    /// The address of its entry in the function table.
    pub entry: u64,
    /// The base of its image.
    pub base: u64,
    /// What its language handler knows its frame by.
    pub establisher: u64,
    /// Its language handler, if it has one.
    pub handler: Option<LanguageHandler>,
}

/// A language handler ("struct `UNWIND_INFO`" of "x64 exception handling").
pub(super) struct LanguageHandler {
    pub function: u64,
    pub data: u64,
    /// It is called when a handler for an exception is looked for.
    pub exception: bool,
    /// It is called when the frame is unwound.
    pub termination: bool,
}

impl UnwindState for Registers<'_> {
    fn read_register(&mut self, register: Register) -> u64 {
        self.values[register as usize]
    }

    fn write_register(&mut self, register: Register, value: u64) {
        self.values[register as usize] = value;
    }

    fn read_stack(&mut self, address: u64) -> Option<u64> {
        read_stack(self.space, address)
    }

    fn write_xmm_register(&mut self, register: XmmRegister, value: u128) {
        self.xmm[register as usize] = value;
    }
}

impl Registers<'_> {
    fn pop(&mut self) -> Option<u64> {
        let value = self.read_stack(self.values[RSP])?;
        self.values[RSP] += 8;
        Some(value)
    }
}

impl Position<'_> {
    /// From where no code is to what called it: that is on the stack.
    pub fn leave_wild(&mut self) -> Option<()> {
        self.rip = self.registers.pop()?;
        self.exact = false;
        Some(())
    }
}

impl Exec {
    /// The instruction behind the kernel call or event that runs, without walking the stack; 0 where no driver code is on it.
    pub fn caller(&self) -> u64 {
        let host_sp = self.border().host_sp.get();
        if host_sp == 0 {
            return 0;
        }
        let rsp = last_word(host_sp);
        if rsp == MARKER {
            return self.start(host_sp).rip;
        }
        read_stack(&self.space, rsp).unwrap_or_default().saturating_sub(1)
    }

    /// Where the driver is on the current thread: the address of an instruction in each of its frames, innermost first; empty where no
    /// driver code is on the stack.
    pub fn driver_stack(&self) -> Rc<[u64]> {
        self.driver_stack_of(self.save())
    }

    /// The same for a thread that was suspended with this context.
    pub fn driver_stack_of(&self, context: Context) -> Rc<[u64]> {
        self.walk_to(context.host_sp, 0)
    }

    /// Where the driver is on the current thread, without what an interrupt or DPC interrupted.
    pub fn uninterrupted_stack(&self) -> Rc<[u64]> {
        let context = self.save();
        self.walk_to(context.host_sp, context.interrupted)
    }

    /// The offset of each address of a stack in its image; whatever lies in none is left out.
    pub fn offsets_of(&self, stack: &[u64]) -> Vec<u32> {
        let images = self.images.borrow();
        let offset = |rip: &u64| {
            let image = images.iter().rev().find(|image| image.contains(*rip))?;
            u32::try_from(rip - image.base).ok()
        };
        stack.iter().filter_map(offset).collect()
    }

    fn walk_to(&self, from: u64, end: u64) -> Rc<[u64]> {
        let mut stack = Vec::new();
        let mut host_sp = from;
        while host_sp != 0 && host_sp != end && stack.len() < DEEPEST {
            self.walk_from(host_sp, &mut stack);
            // SAFETY: `host_sp` is where `call_guest` left a call frame, and driver code above it has not returned.
            host_sp = unsafe { (host_sp as *const CallFrame).read() }.host_sp;
        }
        stack.into()
    }

    /// Walks the frames between a call into the driver and the kernel call or event that left it.
    fn walk_from(&self, host_sp: u64, stack: &mut Vec<u64>) {
        let mut position = self.start(host_sp);
        if self.is_wild(&position) {
            stack.push(position.rip);
            if position.leave_wild().is_none() {
                return;
            }
        }
        while stack.len() < DEEPEST && self.is_code(position.rip) {
            // A return address may lie behind the last instruction of its function.
            stack.push(if position.exact { position.rip } else { position.rip - 1 });
            if self.unwind(&mut position).is_none() {
                return;
            }
        }
    }

    /// Whether the driver jumped to where no code is.
    pub(super) fn is_wild(&self, position: &Position<'_>) -> bool {
        position.exact && !self.is_code(position.rip)
    }

    /// Whether driver code, or what runs for it, is at an address.
    pub(super) fn is_code(&self, rip: u64) -> bool {
        !matches!(self.code_at(rip), CodeAt::Nowhere)
    }

    /// Goes on to the caller.
    pub(super) fn unwind(&self, position: &mut Position<'_>) -> Option<()> {
        let Position { rip, registers, exact } = position;
        let next = match self.code_at(*rip) {
            CodeAt::Image(image) => Walker::new(&image).frame(registers, *rip, *exact),
            CodeAt::Runtime(pushed) => {
                registers.values[RSP] += if *exact { pushed } else { 0 };
                registers.pop()
            }
            CodeAt::Nowhere => None,
        };
        (*rip, *exact) = (next?, false);
        Some(())
    }

    /// What the unwind information says about the function at a position; None for one without.
    pub(super) fn frame_at(&self, position: &Position<'_>) -> Option<Frame> {
        match self.code_at(position.rip) {
            CodeAt::Image(image) => Walker::new(&image).describe(position),
            CodeAt::Runtime(_) | CodeAt::Nowhere => None,
        }
    }

    /// Where the driver left off for what runs on the host stack below `host_sp`.
    pub(super) fn start(&self, host_sp: u64) -> Position<'_> {
        let space = &*self.space;
        if last_word(host_sp) == MARKER {
            let event = (host_sp - EVENT_SIZE as u64) as *const Event;
            // SAFETY: the marker says that it is an event.
            let event = unsafe { &*event };
            let mut values = event.registers;
            values[RSP] = event.rsp;
            let registers = Registers { space, values, xmm: event.xmm };
            return Position { rip: self.original(event.rip), registers, exact: true };
        }
        let frame = (host_sp - size_of::<TrapFrame>() as u64) as *const TrapFrame;
        // SAFETY: no marker, so it is the frame of a kernel call.
        let frame = unsafe { &*frame };
        let TrapFrame { rbx, rsp, rbp, rsi, rdi, r12, r13, r14, r15, .. } = *frame;
        let values = [0, 0, 0, rbx, rsp, rbp, rsi, rdi, 0, 0, 0, 0, r12, r13, r14, r15];
        let mut xmm = [0; 16];
        xmm[TrapFrame::FIRST_XMM..].copy_from_slice(&frame.xmm);
        let mut registers = Registers { space, values, xmm };
        let rip = registers.pop().unwrap_or_default();
        Position { rip, registers, exact: false }
    }

    fn code_at(&self, rip: u64) -> CodeAt {
        if let Some(image) = self.images.borrow().iter().find(|image| image.contains(rip)) {
            return CodeAt::Image(Rc::clone(image));
        }
        let offset = self.thunks.runtime_offset(rip);
        offset.map_or(CodeAt::Nowhere, |offset| CodeAt::Runtime(super::crt::pushed(offset)))
    }
}

/// The last word of what a kernel call or an event left on the host stack: the driver's rsp, or the marker of an event.
#[inline]
const fn last_word(host_sp: u64) -> u64 {
    // SAFETY: just below `host_sp` lies what `trap_entry` or an event left there, and both end with a word.
    unsafe { ((host_sp - 8) as *const u64).read() }
}

/// A word of a kernel stack; None for other addresses.
#[inline]
fn read_stack(space: &Space, address: u64) -> Option<u64> {
    let on_stack = address.is_multiple_of(8) && space.is(address, PageKind::Stack);
    // SAFETY: the page is one of a kernel stack, which is mapped and holds plain data.
    on_stack.then(|| unsafe { (address as *const u64).read() })
}

/// Whose code is at an address.
enum CodeAt {
    Image(Rc<Image>),
    /// A C runtime function that has pushed so many bytes.
    Runtime(u64),
    Nowhere,
}

/// Unwinds the frames of one image.
struct Walker<'i> {
    base: u64,
    bytes: &'i [u8],
    functions: FunctionTableEntries<'i>,
}

impl<'i> Walker<'i> {
    fn new(image: &'i Image) -> Self {
        let table = image.bytes.get(image.function_table.clone()).unwrap_or_default();
        Self { base: image.base, bytes: &image.bytes, functions: FunctionTableEntries::parse(table) }
    }

    /// The function at a position and its language handler: none while it sets up its frame or takes it down.
    fn describe(&self, position: &Position<'_>) -> Option<Frame> {
        let rva = u32::try_from(position.rip - self.base).ok()?;
        let first = self.functions.lookup(if position.exact { rva } else { rva - 1 })?;
        let (mut function, mut info) = (first, self.info(first)?);
        let offset = rva - first.begin_address.get();
        let registers = &position.registers;
        let in_prolog = position.exact && offset < info.prolog_size.into();
        let outside = in_prolog
            || position.exact && self.finish_epilog(&mut registers.clone(), rva, first, &info).unwrap_or(false);
        while let Some(chained) = self.chained(function, &info) {
            (function, info) = (chained, self.info(chained)?);
        }
        let frame = info.frame_register().map_or(registers.values[RSP], |register| {
            registers.values[register as usize].wrapping_sub(info.frame_register_offset().into())
        });
        let handler = self.handler(function, &info).filter(|_| !outside);
        Some(Frame { entry: self.address(function), base: self.base, establisher: frame, handler })
    }

    fn info(&self, function: &RuntimeFunction) -> Option<UnwindInfo<'i>> {
        UnwindInfo::parse(self.bytes.get(function.unwind_info_address.get() as usize..)?)
    }

    /// Where the unwind information of a function goes on behind its codes, of which there is always an even number of places: the crate
    /// does not reckon with that.
    fn behind_codes(function: &RuntimeFunction, info: &UnwindInfo<'_>) -> usize {
        let header = size_of::<UnwindInfoHeader>();
        function.unwind_info_address.get() as usize
            + header
            + 2 * usize::from(info.unwind_codes_len.next_multiple_of(2))
    }

    /// The function that this one is a part of.
    fn chained(&self, function: &RuntimeFunction, info: &UnwindInfo<'_>) -> Option<&'i RuntimeFunction> {
        if !info.flags().contains(UnwindInfoFlags::CHAININFO) {
            return None;
        }
        let start = Self::behind_codes(function, info);
        let entry = self.bytes.get(start..start + size_of::<RuntimeFunction>())?;
        FunctionTableEntries::parse(entry).functions()?.first()
    }

    fn handler(&self, function: &RuntimeFunction, info: &UnwindInfo<'_>) -> Option<LanguageHandler> {
        let flags = info.flags();
        if !flags.intersects(UnwindInfoFlags::EHANDLER | UnwindInfoFlags::UHANDLER) {
            return None;
        }
        let start = Self::behind_codes(function, info);
        let handler = self.bytes.get(start..start + size_of::<u32>())?.try_into().ok()?;
        Some(LanguageHandler {
            function: self.base + u64::from(u32::from_le_bytes(handler)),
            data: self.base + (start + size_of::<u32>()) as u64,
            exception: flags.contains(UnwindInfoFlags::EHANDLER),
            termination: flags.contains(UnwindInfoFlags::UHANDLER),
        })
    }

    /// Where a part of the image's bytes lies in the machine.
    fn address<T>(&self, part: *const T) -> u64 {
        self.base + (part.addr() - self.bytes.as_ptr().addr()) as u64
    }

    /// Undoes one frame and returns where it returns to, as the documents on x64 exception handling say. The crate's own loop takes
    /// every jump for the end of an epilog, and looks for epilogs at return addresses too.
    fn frame(&self, registers: &mut Registers<'_>, rip: u64, exact: bool) -> Option<u64> {
        let rva = u32::try_from(rip - self.base).ok()?;
        let Some(mut function) = self.functions.lookup(if exact { rva } else { rva - 1 }) else {
            return registers.pop();
        };
        let offset = rva - function.begin_address.get();
        let mut in_first = true;
        loop {
            let info = self.info(function)?;
            if in_first && exact && self.finish_epilog(registers, rva, function, &info)? {
                return registers.pop();
            }
            let done = |at: u8| !in_first || u32::from(at) <= offset;
            for (_, operation) in info.unwind_operations().filter(|(at, _)| done(*at)) {
                if let ControlFlow::Break(rip) = info.resolve_operation(registers, &operation)? {
                    return Some(rip);
                }
            }
            let Some(chained) = self.chained(function, &info) else {
                return registers.pop();
            };
            (function, in_first) = (chained, false);
        }
    }

    /// If `rva` lies in an epilog, does what is left of it but the return.
    fn finish_epilog(
        &self,
        registers: &mut Registers<'_>,
        rva: u32,
        function: &RuntimeFunction,
        info: &UnwindInfo<'_>,
    ) -> Option<bool> {
        let (begin, end) = (function.begin_address.get(), function.end_address.get());
        let mut code = self.bytes.get(rva as usize..end as usize)?;
        let mut instructions = Vec::new();
        loop {
            match FunctionEpilogInstruction::parse(code, info.frame_register(), instructions.is_empty()) {
                Ok(Some((instruction, rest))) => {
                    instructions.push(instruction);
                    code = rest;
                }
                Ok(None) => break,
                Err(_) => return Some(false),
            }
        }
        let at = i64::from(end) - i64::try_from(code.len()).ok()?;
        if jump_target(code, at).is_some_and(|target| i64::from(begin) < target && target < i64::from(end)) {
            return Some(false);
        }
        for instruction in instructions {
            match instruction {
                FunctionEpilogInstruction::AddSP(bytes) => {
                    registers.values[RSP] = registers.values[RSP].wrapping_add_signed(bytes.cast_signed().into());
                }
                FunctionEpilogInstruction::AddSPFromFP(bytes) => {
                    let frame = registers.read_register(info.frame_register()?);
                    registers.values[RSP] = frame.wrapping_add_signed(bytes.cast_signed().into());
                }
                FunctionEpilogInstruction::Pop(register) => {
                    let value = registers.pop()?;
                    registers.write_register(register, value);
                }
            }
        }
        Some(true)
    }
}

/// Where a jump at `at` goes, if the code is one.
fn jump_target(code: &[u8], at: i64) -> Option<i64> {
    match *code {
        [JUMP_SHORT, displacement, ..] => Some(at + 2 + i64::from(displacement.cast_signed())),
        [JUMP, a, b, c, d, ..] => Some(at + 5 + i64::from(i32::from_le_bytes([a, b, c, d]))),
        _ => None,
    }
}
