//! Translation of one block of the driver's instructions.

use std::cell::Cell;

use iced_x86::{
    Code, Decoder, DecoderOptions, Encoder, EncodingKind, FlowControl, Instruction, MemoryOperand, Mnemonic, OpKind,
    Register, RflagsBits,
};

use super::{Exit, Stepper, tear};
use crate::{
    exec::entry::{BUDGET, EXIT, SAVED, TARGET},
    finding::Finding,
    memory::PAGE,
};

/// The most instructions of a block.
const MOST: usize = 64;
/// More room than the translation of a block can need.
const ROOM: u64 = 4096;
const SAVED_RCX: usize = SAVED + 8;
const STATUS_FLAGS: u32 =
    RflagsBits::OF | RflagsBits::SF | RflagsBits::ZF | RflagsBits::AF | RflagsBits::CF | RflagsBits::PF;

/// A translated block.
#[derive(Debug)]
pub struct Block {
    /// Where its translation begins and ends, and where it is entered.
    pub start: u64,
    pub end: u64,
    pub code: u64,
    /// The driver's address.
    pub rip: u64,
    /// Its first instruction, and which operand of that others may come in between of.
    pub first: Instruction,
    pub torn: Option<u32>,
    /// Instructions that count: all, or none in the kernel's own code.
    pub weight: u32,
    /// Whether a branch, a call or a return leads to it.
    pub leader: Cell<bool>,
    /// The byte that says whether it has run; 0 for one that has none.
    pub hit: u64,
    /// Where the translation of each instruction begins, and the instruction itself.
    places: Vec<(u64, u64)>,
}

impl Block {
    /// The driver's instruction to which an address in the translation belongs.
    pub fn original(&self, address: u64) -> u64 {
        let after = self.places.partition_point(|(code, _)| *code <= address);
        after.checked_sub(1).map_or(self.rip, |place| self.places[place].1)
    }

    /// Whether the address is before the translation of its first instruction.
    pub fn is_prologue(&self, address: u64) -> bool {
        self.places.first().is_some_and(|(first, _)| (self.start..*first).contains(&address))
    }
}

/// What is to be translated.
#[derive(Clone, Copy, Debug)]
pub struct Source<'c> {
    /// The code from its first instruction on.
    pub bytes: &'c [u8],
    pub rip: u64,
    /// Whether its instructions count.
    pub counts: bool,
}

/// How a block is run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Form {
    /// Goes on to the next block by itself.
    Linked {
        /// The byte that says that it has run.
        hit: u64,
    },
    /// Has one instruction and comes back.
    Single,
}

/// Encodes a block.
struct Emitter<'s> {
    stepper: &'s Stepper,
    start: u64,
    encoder: Encoder,
    length: u64,
    form: Form,
    /// The cells of branches to other blocks, with what they hold until the other block is known: the exit to the stepper.
    links: Vec<(u64, u64, bool)>,
}

/// Translates a block.
pub fn translate(stepper: &Stepper, source: Source<'_>, form: Form) -> Block {
    let most = if form == Form::Single { 1 } else { MOST };
    let instructions = decode(source, most);
    let start = stepper.code.free(ROOM);
    let mut emitter = Emitter { stepper, start, encoder: Encoder::new(64), length: 0, form, links: Vec::new() };
    let weight = if source.counts { u32::try_from(instructions.len()).unwrap_or(u32::MAX) } else { 0 };
    let code = emitter.prologue(source, &instructions, weight);
    let mut places = Vec::with_capacity(instructions.len());
    for instruction in &instructions {
        places.push((emitter.here(), instruction.ip()));
        emitter.instruction(instruction);
    }
    if let Some(last) = instructions.last().filter(|last| last.flow_control() == FlowControl::Next) {
        emitter.link(last.next_ip(), false);
    }
    emitter.stubs();
    let bytes = emitter.encoder.take_buffer();
    stepper.code.push(&bytes);
    let hit = if let Form::Linked { hit } = form { hit } else { 0 };
    let end = start + bytes.len() as u64;
    let first = instructions[0];
    let torn = tear::operand(&first);
    Block { start, end, code, rip: source.rip, first, torn, weight, leader: Cell::new(false), hit, places }
}

/// The instructions up to the first that does not just go on to the next; they begin in one page.
fn decode(source: Source<'_>, most: usize) -> Vec<Instruction> {
    let mut instructions = Vec::new();
    for instruction in Decoder::with_ip(64, source.bytes, source.rip, DecoderOptions::NONE).into_iter().take(most) {
        if instruction.is_invalid() || instruction.encoding() != EncodingKind::Legacy {
            if instructions.is_empty() {
                refuse(&instruction);
            }
            break;
        }
        if instruction.ip() / PAGE != source.rip / PAGE {
            break;
        }
        instructions.push(instruction);
        if instruction.flow_control() != FlowControl::Next {
            break;
        }
    }
    instructions
}

fn refuse(instruction: &Instruction) -> ! {
    Finding::not_modelled(format!("the instruction {:?} in stepped code", instruction.code())).raise()
}

/// Whether no instruction of the block needs what the status flags are where it begins.
fn are_flags_dead(instructions: &[Instruction]) -> bool {
    let mut live = STATUS_FLAGS;
    for instruction in instructions {
        if instruction.rflags_read() & live != 0 {
            return false;
        }
        if !keeps_flags_at_zero(instruction) {
            // What the documents call undefined, processors leave as it was.
            live &= !(instruction.rflags_written() | instruction.rflags_cleared() | instruction.rflags_set());
        }
        if live == 0 {
            return true;
        }
    }
    false
}

/// Shifts by 0 and repetitions of 0 times leave the flags as they are.
fn keeps_flags_at_zero(instruction: &Instruction) -> bool {
    use Mnemonic::{Rcl, Rcr, Rol, Ror, Sal, Sar, Shl, Shld, Shr, Shrd};
    let shifts = [Rcl, Rcr, Rol, Ror, Sal, Sar, Shl, Shld, Shr, Shrd];
    shifts.contains(&instruction.mnemonic()) || instruction.is_string_instruction()
}

fn gs(offset: usize) -> MemoryOperand {
    let offset = i64::try_from(offset).unwrap_or(i64::MAX);
    MemoryOperand::new(Register::None, Register::None, 1, offset, 8, false, Register::GS)
}

const fn at(address: u64) -> MemoryOperand {
    MemoryOperand::with_base_displ(Register::RIP, address.cast_signed())
}

/// An instruction that exists in the form asked for.
fn form(instruction: Result<Instruction, iced_x86::IcedError>) -> Instruction {
    instruction.expect("the operands are those of the code")
}

impl Emitter<'_> {
    const fn here(&self) -> u64 {
        self.start + self.length
    }

    fn put(&mut self, instruction: &Instruction) {
        let length = self.encoder.encode(instruction, self.here());
        self.length += length.map_or_else(|_| refuse(instruction), |length| length as u64);
    }

    fn with(&mut self, code: Code, memory: MemoryOperand) {
        self.put(&form(Instruction::with1(code, memory)));
    }

    fn load(&mut self, code: Code, memory: MemoryOperand) {
        self.put(&form(Instruction::with2(code, Register::RCX, memory)));
    }

    fn store(&mut self, memory: MemoryOperand) {
        self.put(&form(Instruction::with2(Code::Mov_rm64_r64, memory, Register::RCX)));
    }

    fn branch(&mut self, code: Code, target: u64) {
        self.put(&form(Instruction::with_branch(code, target)));
    }

    /// Comes back to the stepper with a reason.
    fn exit(&mut self, exit: Exit) {
        let number = self.stepper.add_exit(exit);
        self.put(&form(Instruction::with2(Code::Mov_rm32_imm32, gs(EXIT), number)));
        let resume = self.stepper.resume;
        self.with(Code::Jmp_rm64, at(resume));
    }

    /// What runs before the first instruction: charges the block to the budget, notes that it has run, and touches the driver's own
    /// code. Returns where the block is entered.
    fn prologue(&mut self, source: Source<'_>, instructions: &[Instruction], weight: u32) -> u64 {
        let Form::Linked { hit } = self.form else {
            let entry = self.here();
            self.touch_with_register(source.rip);
            return entry;
        };
        if weight == 0 {
            return self.here();
        }
        self.exit(Exit::Budget { rip: source.rip, weight });
        let weight = i32::try_from(weight).unwrap_or(i32::MAX);
        let entry = self.here();
        if are_flags_dead(instructions) {
            self.put(&form(Instruction::with2(Code::Sub_rm64_imm32, gs(BUDGET), weight)));
            self.branch(Code::Js_rel32_64, self.start);
            self.put(&form(Instruction::with2(Code::Cmp_rm8_imm8, at(source.rip), 0)));
        } else {
            self.charge_with_register(weight);
            self.touch_with_register(source.rip);
        }
        self.put(&form(Instruction::with2(Code::Mov_rm8_imm8, at(hit), 1)));
        entry
    }

    /// Charges the budget without a change of flags.
    fn charge_with_register(&mut self, weight: i32) {
        self.store(gs(SAVED_RCX));
        self.load(Code::Mov_r64_rm64, gs(BUDGET));
        let less = MemoryOperand::with_base_displ(Register::RCX, -i64::from(weight));
        self.load(Code::Lea_r64_m, less);
        self.store(gs(BUDGET));
        // The byte with the sign.
        self.put(&form(Instruction::with2(Code::Movzx_r32_rm8, Register::ECX, gs(BUDGET + 7))));
        // Over a load of nine bytes and a branch of five.
        self.branch(Code::Jrcxz_rel8_64, self.here() + 2 + 9 + 5);
        self.load(Code::Mov_r64_rm64, gs(SAVED_RCX));
        self.branch(Code::Jmp_rel32_64, self.start);
        self.load(Code::Mov_r64_rm64, gs(SAVED_RCX));
    }

    /// Reads a byte of the driver's code, which faults where executing it would.
    fn touch_with_register(&mut self, rip: u64) {
        self.store(gs(SAVED_RCX));
        self.put(&form(Instruction::with2(Code::Movzx_r32_rm8, Register::ECX, at(rip))));
        self.load(Code::Mov_r64_rm64, gs(SAVED_RCX));
    }

    fn instruction(&mut self, instruction: &Instruction) {
        match instruction.flow_control() {
            FlowControl::Next => self.put(instruction),
            FlowControl::Exception | FlowControl::Interrupt => {
                self.put(instruction);
                self.put(&Instruction::with(Code::Ud2));
            }
            FlowControl::ConditionalBranch => self.conditional(instruction),
            FlowControl::UnconditionalBranch if instruction.is_jmp_short_or_near() => {
                self.link(instruction.near_branch_target(), true);
            }
            FlowControl::IndirectBranch if instruction.is_jmp_near_indirect() => {
                self.load_target(instruction);
                self.look_up();
            }
            FlowControl::Call if instruction.is_call_near() => {
                self.push_return_address(instruction);
                self.link(instruction.near_branch_target(), true);
            }
            FlowControl::IndirectCall if instruction.is_call_near_indirect() => {
                self.load_target(instruction);
                self.push_return_address(instruction);
                self.look_up();
            }
            FlowControl::Return if matches!(instruction.code(), Code::Retnq | Code::Retnq_imm16) => {
                self.return_from(instruction);
            }
            _ => refuse(instruction),
        }
    }

    /// The driver's own address: what unwinds the stack, and what a kernel call returns to, is the driver's.
    fn push_return_address(&mut self, call: &Instruction) {
        let address = self.stepper.cells.push(&call.next_ip().to_le_bytes());
        self.with(Code::Push_rm64, at(address));
    }

    /// Where an indirect branch goes, by way of the stack, which needs no register and no flag.
    fn load_target(&mut self, branch: &Instruction) {
        if branch.op0_kind() == OpKind::Register && branch.op0_register() == Register::RSP {
            refuse(branch);
        }
        let mut push = *branch;
        push.set_code(Code::Push_rm64);
        self.put(&push);
        self.with(Code::Pop_rm64, gs(TARGET));
    }

    fn return_from(&mut self, instruction: &Instruction) {
        self.with(Code::Pop_rm64, gs(TARGET));
        if instruction.code() == Code::Retnq_imm16 {
            let above = MemoryOperand::with_base_displ(Register::RSP, instruction.immediate16().into());
            self.put(&form(Instruction::with2(Code::Lea_r64_m, Register::RSP, above)));
        }
        self.look_up();
    }

    /// Goes to `Border::target`.
    fn look_up(&mut self) {
        match self.form {
            Form::Linked { .. } => self.with(Code::Jmp_rm64, at(self.stepper.lookup)),
            Form::Single => self.exit(Exit::Target),
        }
    }

    fn conditional(&mut self, branch: &Instruction) {
        let known = branch.is_jcc_short_or_near() || branch.is_loop() || branch.is_loopcc() || branch.is_jcx_short();
        if !known {
            refuse(branch);
        }
        let mut short = *branch;
        short.as_short_branch();
        // Only a branch on the low half of rcx has a prefix. Over a branch through a cell.
        let length = if short.code() == Code::Jecxz_rel8_64 || is_half_loop(short.code()) { 3 } else { 2 };
        short.set_near_branch64(self.here() + length + 6);
        self.put(&short);
        self.link(branch.next_ip(), true);
        self.link(branch.near_branch_target(), true);
    }

    /// Goes to another block: six bytes.
    fn link(&mut self, target: u64, leader: bool) {
        let cell = self.stepper.cells.push(&[0; 8]);
        self.with(Code::Jmp_rm64, at(cell));
        self.links.push((cell, target, leader));
    }

    /// The exits behind the links.
    fn stubs(&mut self) {
        for (cell, target, leader) in std::mem::take(&mut self.links) {
            self.stepper.cells.set(cell, self.here());
            let linked = matches!(self.form, Form::Linked { .. });
            self.exit(Exit::Branch { target, leader, cell: linked.then_some(cell) });
        }
    }
}

const fn is_half_loop(code: Code) -> bool {
    matches!(code, Code::Loop_rel8_64_ECX | Code::Loope_rel8_64_ECX | Code::Loopne_rel8_64_ECX)
}
