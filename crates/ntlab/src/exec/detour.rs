//! Accesses to device registers without a signal: the first one at an instruction puts a jump in its place, which leads into the lab as a
//! kernel call does.
//!
//! A jump has five bytes, so that it may cover instructions behind the one in question. They run as a copy. A branch may lead to one of
//! them nevertheless: the byte of the jump that lies there is then a breakpoint, which is a matter of where the jump leads, and who comes
//! there goes on in the copy.

use std::collections::{BTreeMap, BTreeSet};

use iced_x86::{Encoder, FlowControl, Instruction, OpKind, Register};

use super::{
    Exec, Image,
    entry::{DETOUR, resume_entry},
    event::{self, Event},
};
use crate::{
    kernel::Kernel,
    memory::{Arena, PAGE, PageKind, Space, host},
};

/// Bytes of `jmp rel32`.
const JUMP: usize = 5;
const JUMP_OPCODE: u8 = 0xE9;
const BREAKPOINT: u8 = 0xCC;
/// Room for what a jump leads to: the way into the lab, the copies, the way back.
const ROOM: u64 = 128;
/// Bytes of the way into the lab, `mov dword ptr gs:[n], n; jmp [rip]`.
const ENTRY: u64 = 26;
/// The copies have at most 4 bytes and an instruction of 15 bytes, which grow by little; then `jmp [rip]`.
const _: () = assert!(ENTRY + 4 * 8 + 16 + 14 < ROOM);
/// How far below its site a detour may lie, in units of the jump's highest byte.
const HIGHEST: std::ops::RangeInclusive<u8> = 0xC0..=0xFF;

/// A place in the driver with a jump.
#[derive(Clone, Copy, Debug)]
pub(super) struct Site {
    /// The instruction that was there.
    instruction: Instruction,
    /// Its copy.
    copy: u64,
}

/// All jumps of a machine.
#[derive(Debug, Default)]
pub struct Detours {
    sites: Vec<Site>,
    /// The jumps, by address.
    jumps: Vec<(u64, [u8; JUMP])>,
    /// The copy of each instruction that a jump covers, by its address, and the other way round.
    copies: BTreeMap<u64, u64>,
    originals: BTreeMap<u64, u64>,
    /// Pages with room, and the places in them that are taken.
    pages: BTreeSet<u64>,
    taken: BTreeSet<u64>,
}

/// What is to be covered by a jump: whole instructions.
struct Covered {
    instructions: Vec<Instruction>,
    /// Which bytes of the jump, by number, are at the start of an instruction.
    starts: [bool; JUMP],
}

impl Covered {
    /// The instructions from `rip` on that a jump covers; None where one of them cannot run elsewhere.
    fn at(exec: &Exec, rip: u64) -> Option<Self> {
        let (mut instructions, mut starts) = (Vec::new(), [false; JUMP]);
        let mut length = 0;
        while length < JUMP {
            let instruction = exec.instruction(rip + length as u64)?;
            if instruction.is_invalid() || !can_move(&instruction) {
                return None;
            }
            starts[length] = true;
            length += instruction.len();
            instructions.push(instruction);
        }
        Some(Self { instructions, starts })
    }

    /// The instruction behind them.
    fn end(&self) -> u64 {
        self.instructions.last().map_or(0, Instruction::next_ip)
    }

    /// Their code at another address; where each is there, and where the last one ends.
    fn copied_to(&self, address: u64) -> Option<(Vec<u8>, Vec<u64>)> {
        let mut encoder = Encoder::new(64);
        let mut starts = vec![address];
        for instruction in &self.instructions {
            let at = *starts.last()?;
            let length = encoder.encode(instruction, at).ok()?;
            starts.push(at + length as u64);
        }
        Some((encoder.take_buffer(), starts))
    }

    /// The addresses to which the jump at `rip` can lead, by ranges.
    fn reach(&self, rip: u64) -> impl Iterator<Item = std::ops::Range<u64>> {
        // Bytes of the distance from the first that has to be a breakpoint on are fixed, but for the highest where that need not be one.
        let fixed = (2..JUMP).find(|byte| self.starts[*byte]).unwrap_or(JUMP - 1) - 1;
        let highest = if self.starts[JUMP - 1] { BREAKPOINT..=BREAKPOINT } else { HIGHEST };
        highest.rev().map(move |highest| {
            let mut distance = [0; size_of::<i32>()];
            distance[fixed..].fill(BREAKPOINT);
            distance[size_of::<i32>() - 1] = highest;
            let first = (rip + JUMP as u64).wrapping_add_signed(i32::from_le_bytes(distance).into());
            first..first + (1 << (8 * fixed))
        })
    }
}

/// Whether an instruction does the same elsewhere. What touches the stack pointer stays where unwinding expects it.
fn can_move(instruction: &Instruction) -> bool {
    instruction.flow_control() == FlowControl::Next
        && !instruction.is_stack_instruction()
        && !instruction.is_privileged()
        && instruction.op0_register().full_register() != Register::RSP
}

impl Detours {
    /// The driver's instruction of which a copy lies at an address.
    pub(super) fn original(&self, rip: u64) -> Option<u64> {
        self.originals.get(&rip).copied()
    }

    /// Puts the jumps that are known already into an image that is about to be loaded.
    pub(super) fn put_into(&self, image: &Image, bytes: &mut [u8]) {
        for (address, jump) in self.jumps.iter().filter(|(address, _)| image.contains(*address)) {
            let start = host::to_usize(address - image.base);
            bytes[start..start + JUMP].copy_from_slice(jump);
        }
    }

    /// Address and length of the pages that jumps lead to.
    pub(super) fn code_pages(&self) -> impl Iterator<Item = (u64, usize)> {
        self.pages.iter().map(|page| (*page, host::to_usize(PAGE)))
    }

    /// A place for a detour.
    fn place(&mut self, space: &Space, covered: &Covered, rip: u64) -> Option<u64> {
        let Self { pages, taken, .. } = self;
        for reach in covered.reach(rip) {
            let near = pages.range(reach.start.saturating_sub(PAGE)..reach.end);
            let mut rooms = near.flat_map(|page| (0..PAGE / ROOM).map(move |room| page + room * ROOM));
            if let Some(place) = rooms.find(|place| reach.contains(place) && !taken.contains(place)) {
                taken.insert(place);
                return Some(place);
            }
            // In the middle, where the sites around can reach it too.
            let place = (reach.start + (reach.end - reach.start) / 2).next_multiple_of(ROOM);
            let page = place / PAGE * PAGE;
            if reach.contains(&place) && space.contains(Arena::Detours, page) && pages.insert(page) {
                space.take_code_page(page);
                taken.insert(place);
                return Some(place);
            }
        }
        None
    }
}

impl Exec {
    /// Puts a jump where an instruction of the driver has accessed registers, if that can be: where the driver goes on behind it, then.
    pub(super) fn detour(&self, rip: u64) -> Option<u64> {
        let mut detours = self.detours.as_ref()?.borrow_mut();
        let covered = Covered::at(self, rip)?;
        let place = detours.place(&self.space, &covered, rip)?;
        let number = detours.sites.len() as u64 + 1;
        let (copies, starts) = covered.copied_to(place + ENTRY)?;
        let code = [way_in(number).as_slice(), &copies, &jump_to(covered.end())].concat();
        for (instruction, copy) in covered.instructions.iter().zip(&starts) {
            detours.originals.insert(*copy, instruction.ip());
            detours.copies.insert(instruction.ip(), *copy);
        }
        detours.sites.push(Site { instruction: covered.instructions[0], copy: starts[0] });
        self.space.patch(place, &code);
        let distance = i32::try_from(place.wrapping_sub(rip + JUMP as u64).cast_signed()).ok()?;
        let mut jump = [JUMP_OPCODE; JUMP];
        jump[1..].copy_from_slice(&distance.to_le_bytes());
        detours.jumps.push((rip, jump));
        self.space.patch(rip, &jump);
        Some(starts[1])
    }

    /// The place of the jump that has led into the lab; None where something else has.
    pub(super) fn detour_taken(&self) -> Option<Site> {
        let number = self.border().detour.replace(0).checked_sub(1)?;
        self.detours.as_ref()?.borrow().sites.get(host::to_usize(number)).copied()
    }

    /// Serves the event that a jump led to: registers are accessed, or the instruction goes on with other memory.
    pub(super) fn serve_detour(&self, k: &Kernel, event: &mut Event, site: &Site) {
        event.rip = site.instruction.ip();
        event.address = operand(&site.instruction, event).unwrap_or_default();
        if self.space.kind(event.address) == PageKind::Mmio {
            self.registers.access(k, event);
        } else {
            event.rip = site.copy;
        }
    }

    /// The copy of an instruction of the driver that a jump covers.
    pub(super) fn copy(&self, rip: u64) -> Option<u64> {
        self.detours.as_ref()?.borrow().copies.get(&rip).copied()
    }
}

/// The address of an instruction's memory operand.
pub(super) fn operand(instruction: &Instruction, event: &Event) -> Option<u64> {
    let memory = instruction.op_kinds().position(|kind| kind == OpKind::Memory)?;
    let memory = u32::try_from(memory).ok()?;
    instruction.virtual_address(memory, 0, |register, _, _| event::value(event, register))
}

/// `mov dword ptr gs:[DETOUR], number; jmp resume_entry`.
fn way_in(number: u64) -> Vec<u8> {
    let mut code = vec![0x65, 0xC7, 0x04, 0x25];
    // Both fit: an offset in a page, and the number of an instruction, of which there are 4,096 at most.
    code.extend(&DETOUR.to_le_bytes()[..4]);
    code.extend(&number.to_le_bytes()[..4]);
    code.extend(jump_to(resume_entry as *const () as u64));
    code
}

/// `jmp [rip]`.
fn jump_to(target: u64) -> Vec<u8> {
    let mut code = vec![0xFF, 0x25, 0, 0, 0, 0];
    code.extend(target.to_le_bytes());
    code
}
