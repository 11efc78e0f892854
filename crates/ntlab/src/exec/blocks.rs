//! Where the basic blocks of an image begin, without running it.
//!
//! Code is followed from what is known to be code: the entry point, the exports, the functions of the function table, and what such code
//! calls or takes the address of. Where a function jumps to an address that it computes, as a `switch` does, all of it is taken for code. A
//! function in which that leads to instructions that overlap has data in between, and none of its blocks is listed.

use std::collections::{BTreeMap, BTreeSet};

use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic};
use pe_unwind_info::x86_64::FunctionTableEntries;

use super::image::Image;
use crate::memory::{PageKind, host};

/// Offsets in the image of the first instructions of basic blocks: where a branch, a call or a return may lead to.
pub fn starts(image: &Image) -> BTreeSet<u32> {
    let mut walk = Walk {
        image,
        functions: functions(image),
        leaves: BTreeSet::new(),
        lengths: BTreeMap::new(),
        starts: BTreeSet::new(),
    };
    let known = std::iter::once(&image.entry).chain(image.exports.values()).map(|address| address - image.base);
    let mut open: Vec<u64> = known.chain(walk.functions.keys().copied()).collect();
    while let Some(offset) = open.pop() {
        if walk.is_code(offset) && walk.starts.insert(offset) {
            walk.follow(offset, &mut open);
        }
    }
    walk.finish()
}

/// Where each function of the function table ends, by where it begins.
fn functions(image: &Image) -> BTreeMap<u64, u64> {
    let table = image.bytes.get(image.function_table.clone()).unwrap_or_default();
    let all = FunctionTableEntries::parse(table).functions().unwrap_or_default();
    all.iter().map(|function| (function.begin_address.get().into(), function.end_address.get().into())).collect()
}

struct Walk<'i> {
    image: &'i Image,
    /// Where each function ends, by where it begins.
    functions: BTreeMap<u64, u64>,
    /// The beginnings of those that are in no table.
    leaves: BTreeSet<u64>,
    /// The length of each instruction found.
    lengths: BTreeMap<u64, u64>,
    starts: BTreeSet<u64>,
}

impl Walk<'_> {
    fn is_code(&self, offset: u64) -> bool {
        let address = self.image.base + offset;
        let section = self.image.sections.iter().find(|section| address.wrapping_sub(section.start) < section.length);
        section.is_some_and(|section| matches!(section.kind, PageKind::ImageCode | PageKind::PagedCode))
    }

    /// The function around an offset.
    fn function(&self, offset: u64) -> Option<(u64, u64)> {
        let (begin, end) = self.functions.range(..=offset).next_back()?;
        (offset < *end).then_some((*begin, *end))
    }

    /// A function that uses no stack is in no table: it reaches to the next one. False for an address inside one of the table.
    fn note_function(&mut self, begin: u64) -> bool {
        let outside = self.is_code(begin) && self.function(begin).is_none_or(|(begin, _)| self.leaves.contains(&begin));
        if outside && self.leaves.insert(begin) {
            let end = self.functions.range(begin + 1..).next().map_or(self.image.length, |(next, _)| *next);
            self.functions.insert(begin, end);
        }
        outside
    }

    /// Goes from instruction to instruction until the block ends, and notes what may come after it.
    fn follow(&mut self, start: u64, open: &mut Vec<u64>) {
        let bytes = self.image.bytes.get(host::to_usize(start)..).unwrap_or_default();
        for instruction in Decoder::with_ip(64, bytes, start, DecoderOptions::NONE) {
            let (offset, next) = (instruction.ip(), instruction.next_ip());
            let known = offset != start && self.starts.contains(&offset);
            if known || instruction.is_invalid() || self.lengths.insert(offset, next - offset).is_some() {
                return;
            }
            let next = match instruction.flow_control() {
                FlowControl::Next => {
                    let taken = function_address(&instruction).filter(|address| self.note_function(*address));
                    open.extend(taken);
                    continue;
                }
                FlowControl::ConditionalBranch | FlowControl::Call | FlowControl::IndirectCall => Some(next),
                FlowControl::Interrupt | FlowControl::Exception => None,
                _ => self.end_of_jumps_by_table(offset).and_then(|end| self.behind_padding(next, end)),
            };
            if instruction.is_call_near() {
                self.note_function(instruction.near_branch_target());
            }
            open.extend(branch_target(&instruction).into_iter().chain(next));
            return;
        }
    }

    fn code(&self, start: u64, end: u64) -> impl Iterator<Item = Instruction> {
        let bytes = self.image.bytes.get(host::to_usize(start)..host::to_usize(end)).unwrap_or_default();
        Decoder::with_ip(64, bytes, start, DecoderOptions::NONE).into_iter()
    }

    /// The end of the function around an offset, if it computes where it jumps to.
    fn end_of_jumps_by_table(&self, offset: u64) -> Option<u64> {
        let (begin, end) = self.function(offset)?;
        let mut code = self.code(begin, end).take_while(|instruction| instruction.mnemonic() != Mnemonic::Int3);
        let computes =
            |jump: Instruction| jump.flow_control() == FlowControl::IndirectBranch && !jump.is_ip_rel_memory_operand();
        code.any(computes).then_some(end)
    }

    /// The first instruction that does not just fill room.
    fn behind_padding(&self, start: u64, end: u64) -> Option<u64> {
        let first = self.code(start, end).find(|instruction| instruction.mnemonic() != Mnemonic::Nop)?;
        (!first.is_invalid() && first.mnemonic() != Mnemonic::Int3).then(|| first.ip())
    }

    /// Leaves functions out that have data among their instructions.
    fn finish(self) -> BTreeSet<u32> {
        let ends = self.lengths.iter().map(|(offset, length)| (*offset, offset + length));
        let overlaps: BTreeSet<u64> =
            ends.clone().zip(ends.skip(1)).filter(|(a, b)| a.1 > b.0).map(|(a, _)| a.0).collect();
        let wrong: BTreeSet<_> = overlaps.iter().map(|offset| self.function(*offset)).collect();
        let sound = self.starts.iter().filter(|offset| !wrong.contains(&self.function(**offset)));
        sound.filter_map(|offset| u32::try_from(*offset).ok()).collect()
    }
}

fn branch_target(instruction: &Instruction) -> Option<u64> {
    let known = instruction.is_jmp_short_or_near() || instruction.is_call_near() || instruction.is_jcc_short_or_near();
    let counts = instruction.is_loop() || instruction.is_loopcc() || instruction.is_jcx_short();
    (known || counts).then(|| instruction.near_branch_target())
}

/// What may be the address of a function, in an instruction that takes it.
fn function_address(instruction: &Instruction) -> Option<u64> {
    let takes = instruction.mnemonic() == Mnemonic::Lea && instruction.is_ip_rel_memory_operand();
    takes.then(|| instruction.ip_rel_memory_address())
}
