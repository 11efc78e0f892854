//! Which basic blocks of drivers have run, at the speed of the driver itself: a breakpoint stands at the first byte of each block that has
//! not run. The driver gets its own byte back when it comes there.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
};

use super::{BlockStart, Exec, blocks, image::Image};
use crate::memory::PageKind;

const BREAKPOINT: u8 = 0xCC;

/// The blocks of all images of a machine.
#[derive(Debug, Default)]
pub struct Coverage {
    /// By address, the block and its first byte.
    blocks: RefCell<BTreeMap<u64, (BlockStart, u8)>>,
    /// Addresses at which a breakpoint stands.
    armed: RefCell<BTreeSet<u64>>,
    reached: RefCell<BTreeSet<BlockStart>>,
}

impl Coverage {
    /// The blocks of an image that is about to be loaded as number `number`; `bytes`, its contents, get the breakpoints.
    pub fn add(&self, image: &Image, number: u32, bytes: &mut [u8]) {
        for offset in blocks::starts(image) {
            let byte = &mut bytes[offset as usize];
            let address = image.base + u64::from(offset);
            self.blocks.borrow_mut().insert(address, (BlockStart { image: number, offset }, *byte));
            self.armed.borrow_mut().insert(address);
            *byte = BREAKPOINT;
        }
    }
}

impl Exec {
    /// A breakpoint at `address` was hit. False if it is none of these.
    pub(super) fn reach(&self, address: u64) -> bool {
        let Some(coverage) = &self.coverage else { return false };
        if !coverage.armed.borrow_mut().remove(&address) {
            return false;
        }
        let (block, byte) = coverage.blocks.borrow()[&address];
        coverage.reached.borrow_mut().insert(block);
        self.space.patch(address, &[byte]);
        true
    }

    /// The starts of all basic blocks of the images that were loaded, as far as they are known without running them; none unless
    /// [`Config::note_blocks`](crate::config::Config::note_blocks) asks for it.
    pub fn known_blocks(&self) -> BTreeSet<BlockStart> {
        let Some(coverage) = &self.coverage else { return BTreeSet::new() };
        coverage.blocks.borrow().values().map(|(block, _)| *block).collect()
    }

    /// How many blocks have run.
    pub fn count_blocks(&self) -> usize {
        self.coverage.as_ref().map_or_else(|| self.blocks().len(), |coverage| coverage.reached.borrow().len())
    }

    /// The blocks that have run.
    pub(super) fn reached(&self) -> BTreeSet<BlockStart> {
        self.coverage.as_ref().map(|coverage| coverage.reached.borrow().clone()).unwrap_or_default()
    }

    /// Puts the breakpoints back.
    pub(super) fn rearm(&self) {
        let Some(coverage) = &self.coverage else { return };
        coverage.reached.borrow_mut().clear();
        let mut armed = coverage.armed.borrow_mut();
        for address in coverage.blocks.borrow().keys() {
            let is_code = matches!(self.space.kind(*address), PageKind::ImageCode | PageKind::PagedCode);
            if is_code && armed.insert(*address) {
                self.space.patch(*address, &[BREAKPOINT]);
            }
        }
    }

    /// The frames behind the start of a block, inlined ones too, innermost first.
    pub fn describe_blocks(&self, blocks: &BTreeSet<BlockStart>) -> Vec<(BlockStart, Vec<super::StackFrame>)> {
        let images = self.images.borrow().clone();
        let address = |block: &BlockStart| images[block.image as usize].base + u64::from(block.offset);
        let frames = self.describe_stack(&blocks.iter().map(address).collect::<Vec<_>>());
        let each = frames.chunk_by(|a, b| (&a.module, a.offset) == (&b.module, b.offset));
        blocks.iter().copied().zip(each.map(<[_]>::to_vec)).collect()
    }
}
