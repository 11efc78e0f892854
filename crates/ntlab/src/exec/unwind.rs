//! Where the driver is: walks its stack by the unwind information of its images, across kernel calls and calls back into it.

use std::{ops::ControlFlow, rc::Rc};

use pe_unwind_info::x86_64::{
    FunctionEpilogInstruction, FunctionTableEntries, Register, RuntimeFunction, UnwindInfo, UnwindInfoTrailer,
    UnwindState, XmmRegister,
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
const RSP: usize = 4;
/// `jmp` with a displacement of 8 and of 32 bits.
const JUMP_SHORT: u8 = 0xEB;
const JUMP: u8 = 0xE9;

/// The registers that a walk needs.
struct Registers<'s> {
    space: &'s Space,
    /// rax rcx rdx rbx rsp rbp rsi rdi r8 to r15.
    values: [u64; 16],
}

impl UnwindState for Registers<'_> {
    fn read_register(&mut self, register: Register) -> u64 {
        self.values[register as usize]
    }

    fn write_register(&mut self, register: Register, value: u64) {
        self.values[register as usize] = value;
    }

    fn read_stack(&mut self, address: u64) -> Option<u64> {
        let on_stack = address.is_multiple_of(8) && self.space.kind(address) == PageKind::Stack;
        // SAFETY: the page is one of a kernel stack, which is mapped and holds plain data.
        on_stack.then(|| unsafe { (address as *const u64).read() })
    }

    fn write_xmm_register(&mut self, _: XmmRegister, _: u128) {}
}

impl Registers<'_> {
    fn pop(&mut self) -> Option<u64> {
        let value = self.read_stack(self.values[RSP])?;
        self.values[RSP] += 8;
        Some(value)
    }
}

impl Exec {
    /// The instruction behind the kernel call that runs, without walking the stack; 0 where no driver code is on it.
    pub fn caller(&self) -> u64 {
        let Context { host_sp, guest_sp, .. } = self.save();
        let mut registers = Registers { space: &self.space, values: [0; 16] };
        registers.values[RSP] = guest_sp;
        let next = if host_sp == 0 { None } else { registers.pop() };
        next.map_or(0, |rip| rip - 1)
    }

    /// Where the driver is on the current thread: the address of an instruction in each of its frames, innermost first; empty where no
    /// driver code is on the stack.
    pub fn driver_stack(&self) -> Rc<[u64]> {
        self.driver_stack_of(self.save())
    }

    /// The same for a thread that was suspended with this context.
    pub fn driver_stack_of(&self, context: Context) -> Rc<[u64]> {
        let mut stack = Vec::new();
        let mut host_sp = context.host_sp;
        while host_sp != 0 && stack.len() < DEEPEST {
            self.walk_from(host_sp, &mut stack);
            // SAFETY: `host_sp` is where `call_guest` left a call frame, and driver code above it has not returned.
            host_sp = unsafe { (host_sp as *const CallFrame).read() }.host_sp;
        }
        stack.into()
    }

    /// Walks the frames between a call into the driver and the kernel call or event that left it.
    fn walk_from(&self, host_sp: u64, stack: &mut Vec<u64>) {
        let (mut rip, mut registers, mut exact) = self.start(host_sp);
        if exact && matches!(self.code_at(rip), CodeAt::Nowhere) {
            // A wild jump: what called is on the stack.
            stack.push(rip);
            let Some(next) = registers.pop() else { return };
            (rip, exact) = (next, false);
        }
        while stack.len() < DEEPEST {
            let next = match self.code_at(rip) {
                CodeAt::Image(image) => Walker::new(&image).frame(&mut registers, rip, exact),
                CodeAt::Runtime(pushed) => {
                    registers.values[RSP] += if exact { pushed } else { 0 };
                    registers.pop()
                }
                CodeAt::Nowhere => return,
            };
            // A return address may lie behind the last instruction of its function.
            stack.push(if exact { rip } else { rip - 1 });
            let Some(next) = next else { return };
            (rip, exact) = (next, false);
        }
    }

    /// Where the driver left off: rip, registers, and whether rip is of the instruction itself and not behind a call.
    fn start(&self, host_sp: u64) -> (u64, Registers<'_>, bool) {
        let space = &*self.space;
        // SAFETY: just below `host_sp` lies what `trap_entry` or an event left there, and both end with a word.
        let last = unsafe { ((host_sp - 8) as *const u64).read() };
        if last == MARKER {
            let event = (host_sp - EVENT_SIZE as u64) as *const Event;
            // SAFETY: the marker says that it is an event.
            let event = unsafe { &*event };
            let mut values = event.registers;
            values[RSP] = event.rsp;
            return (self.original(event.rip), Registers { space, values }, true);
        }
        let frame = (host_sp - size_of::<TrapFrame>() as u64) as *const TrapFrame;
        // SAFETY: no marker, so it is the frame of a kernel call.
        let frame = unsafe { &*frame };
        let TrapFrame { rbx, rsp, rbp, rsi, rdi, r12, r13, r14, r15, .. } = *frame;
        let values = [0, 0, 0, rbx, rsp, rbp, rsi, rdi, 0, 0, 0, 0, r12, r13, r14, r15];
        let mut registers = Registers { space, values };
        let rip = registers.pop().unwrap_or_default();
        (rip, registers, false)
    }

    fn code_at(&self, rip: u64) -> CodeAt {
        if let Some(image) = self.images.borrow().iter().find(|image| image.contains(rip)) {
            return CodeAt::Image(Rc::clone(image));
        }
        let offset = self.thunks.borrow().runtime_offset(rip);
        offset.map_or(CodeAt::Nowhere, |offset| CodeAt::Runtime(super::crt::pushed(offset)))
    }
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
            let info = UnwindInfo::parse(self.bytes.get(function.unwind_info_address.get() as usize..)?)?;
            if in_first && exact && self.finish_epilog(registers, rva, function, &info)? {
                return registers.pop();
            }
            let done = |at: u8| !in_first || u32::from(at) <= offset;
            for (_, operation) in info.unwind_operations().filter(|(at, _)| done(*at)) {
                if let ControlFlow::Break(rip) = info.resolve_operation(registers, &operation)? {
                    return Some(rip);
                }
            }
            let Some(UnwindInfoTrailer::ChainedUnwindInfo { chained }) = info.trailer() else {
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
