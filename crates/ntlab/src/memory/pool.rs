//! Pool, all of it special ("Special Pool"): every block ends at a page that faults, and a freed block faults as a whole.
//!
//! A block of less than a page cannot lie at both ends of it. Most lie at the end, some of a driver's at the start, as the seed has it:
//! before every page of pool is one that faults, since that is what every range of pool ends with. A block of a page or more has a guard
//! page of its own before it. What no guard page catches, a pattern does: it fills the rest of the page, and is looked at when the block
//! is freed.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, VecDeque},
    fmt,
    rc::Rc,
};

use super::{Arena, PAGE, PageKind, Ptr, Space, space::Contents, unwritten::Unwritten};
use crate::{config::SpecialPool, finding::Finding};

/// What fills the bytes around a block: a write there is noticed when the block is freed.
pub const PADDING: u8 = 0xA9;
/// Blocks of less than a page are aligned so.
const ALIGNMENT: u64 = 16;
/// One small block of a driver's in so many lies at the start of its page, where the seed decides.
const AT_START_ONCE_IN: u64 = 4;
/// Freed blocks whose history is remembered.
const REMEMBERED: usize = 4096;

/// `BAD_POOL_CALLER`.
const BAD_POOL_CALLER: u32 = 0xC2;
const WRONG_TAG: u64 = 0x0A;
const USER_ADDRESS: u64 = 0x40;
/// `DRIVER_VERIFIER_DETECTED_VIOLATION`.
const VERIFIER: u32 = 0xC4;
const NEVER_ALLOCATED: u64 = 0x10;
const FREED_ALREADY: u64 = 0x13;
const OTHER_ADDRESS: u64 = 0x13E;
/// `SPECIAL_POOL_DETECTED_MEMORY_CORRUPTION`.
const SPECIAL_POOL_DETECTED_MEMORY_CORRUPTION: u32 = 0xC1;
const BEFORE: u64 = 0x23;
const BEHIND: u64 = 0x24;

/// The pools.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PoolKind {
    /// Nonpaged, not executable.
    NonPaged,
    /// Nonpaged, executable.
    NonPagedExecute,
    /// Paged.
    Paged,
}

impl PoolKind {
    const fn pages(self) -> PageKind {
        match self {
            Self::NonPaged => PageKind::NonPagedPool,
            Self::NonPagedExecute => PageKind::ExecutablePool,
            Self::Paged => PageKind::PagedPool,
        }
    }
}

/// A pool tag.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Tag(pub u32);

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.to_le_bytes().iter().try_for_each(|byte| write!(f, "{}", byte.escape_ascii()))
    }
}

/// Who answers for a block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Owner {
    /// The driver: it must free it before it is unloaded.
    Driver,
    /// The kernel.
    Kernel,
    /// The kernel, until a driver frees it to put another block in its place.
    Replaceable,
}

/// What to allocate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Request {
    /// From which pool.
    pub kind: PoolKind,
    /// How many bytes; not 0.
    pub bytes: u64,
    /// For whom.
    pub tag: Tag,
    /// Whether to zero it.
    pub zeroed: bool,
    /// A power of two, at most a page; 0 for the pool's own.
    pub alignment: u64,
    /// The NUMA node it is asked to be on.
    pub node: Option<u32>,
    /// Who answers for it.
    pub owner: Owner,
}

impl Request {
    /// A zeroed nonpaged block of the kernel's.
    #[must_use]
    pub const fn kernel(bytes: u64, tag: &[u8; 4]) -> Self {
        let tag = Tag(u32::from_le_bytes(*tag));
        Self { kind: PoolKind::NonPaged, bytes, tag, zeroed: true, alignment: 0, node: None, owner: Owner::Kernel }
    }
}

/// An allocated block.
#[derive(Clone, Debug)]
pub struct Block {
    /// Its first byte.
    pub address: u64,
    /// What was asked for.
    pub request: Request,
    /// Its number in the order of allocation.
    pub sequence: u64,
    /// Where the driver was when it allocated it: return addresses, innermost first.
    pub stack: Rc<[u64]>,
}

impl Block {
    /// Start and length of its pages.
    const fn pages(&self) -> (u64, u64) {
        let start = self.address / PAGE * PAGE;
        (start, (self.address + self.request.bytes).next_multiple_of(PAGE) - start)
    }

    /// Start and length of its pages and their guards.
    const fn with_guards(&self) -> (u64, u64) {
        let (start, length) = self.pages();
        let before = guard_before(self.request.bytes);
        (start - before, before + length + PAGE)
    }

    /// How far the address is from the block's bytes; None where it is beyond its pages and the guards beside them.
    const fn distance(&self, address: u64) -> Option<u64> {
        let (start, length) = self.pages();
        // What is before a block at the end of its page is padding, and the guard before that another block's.
        let before = if self.address == start { PAGE } else { 0 };
        if address.wrapping_sub(start - before) >= before + length + PAGE {
            return None;
        }
        let end = self.address + self.request.bytes;
        Some(if address < self.address { self.address - address } else { (address + 1).saturating_sub(end) })
    }

    /// Adds where it was allocated to a finding about it.
    #[must_use]
    pub fn allocated(&self, finding: Finding) -> Finding {
        finding.with_stack("allocated at", &self.stack)
    }
}

/// Bytes of the guard before a block: a smaller block has a pattern before it.
const fn guard_before(bytes: u64) -> u64 {
    if bytes < PAGE { 0 } else { PAGE }
}

/// A block that was freed.
#[derive(Clone, Debug)]
pub struct Freed {
    /// The block.
    pub block: Block,
    /// Where the driver was when it freed it: return addresses, innermost first.
    pub stack: Rc<[u64]>,
}

impl Freed {
    /// Adds where it was allocated and freed to a finding about it.
    #[must_use]
    pub fn told(&self, finding: Finding) -> Finding {
        self.block.allocated(finding).with_stack("freed at", &self.stack)
    }
}

impl fmt::Display for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a pool block of {} bytes, tag '{}'", self.request.bytes, self.request.tag)
    }
}

/// What one tag has.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct TagUse {
    /// Blocks that are allocated.
    pub blocks: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Blocks that ever were.
    pub allocations: u64,
}

/// The pools of a machine.
#[derive(Debug)]
pub struct Pool {
    space: Rc<Space>,
    live: RefCell<BTreeMap<u64, Block>>,
    freed: RefCell<VecDeque<Freed>>,
    tags: RefCell<BTreeMap<Tag, TagUse>>,
    sequence: Cell<u64>,
    bytes: Cell<u64>,
    unwritten: Cell<Unwritten>,
    placement: Cell<SpecialPool>,
    seed: Cell<u64>,
}

impl Pool {
    pub(super) fn new(space: &Rc<Space>) -> Self {
        Self {
            space: Rc::clone(space),
            live: RefCell::default(),
            freed: RefCell::default(),
            tags: RefCell::default(),
            sequence: Cell::new(0),
            bytes: Cell::new(0),
            unwritten: Cell::new(Unwritten::new(0)),
            placement: Cell::new(SpecialPool::VerifyEnd),
            seed: Cell::new(0),
        }
    }

    /// Makes what fills unwritten memory another, and what the seed decides of where blocks lie.
    pub(super) fn seed(&self, seed: u64) {
        self.unwritten.set(Unwritten::new(seed));
        self.seed.set(seed);
    }

    /// Says where small blocks of drivers lie in their pages from now on.
    pub(crate) fn place(&self, placement: SpecialPool) {
        self.placement.set(placement);
    }

    fn is_at_start(&self, request: &Request, sequence: u64) -> bool {
        request.owner == Owner::Driver
            && match self.placement.get() {
                SpecialPool::VerifyEnd => false,
                SpecialPool::VerifyStart => true,
                SpecialPool::Either => mixed(self.seed.get(), sequence).is_multiple_of(AT_START_ONCE_IN),
            }
    }

    /// What fills unwritten memory.
    #[must_use]
    pub const fn unwritten(&self) -> Unwritten {
        self.unwritten.get()
    }

    /// Allocates a block. `stack` is where the driver is.
    pub fn allocate(&self, request: Request, stack: Rc<[u64]>) -> Ptr<u8> {
        let length = request.bytes.next_multiple_of(PAGE);
        let before = guard_before(request.bytes);
        let start = self.space.take(arena(request.kind), before + length + PAGE) + before;
        let contents = self.space.open_as_they_are(start, length, request.kind.pages());
        self.space.mark(start - before, before, PageKind::PoolGuard);
        self.space.mark(start + length, PAGE, PageKind::PoolGuard);
        let sequence = self.sequence.get() + 1;
        self.sequence.set(sequence);
        let address = if request.bytes >= PAGE || self.is_at_start(&request, sequence) {
            start
        } else {
            let alignment = request.alignment.max(ALIGNMENT);
            (start + length - request.bytes) / alignment * alignment
        };
        let block = Block { address, request, sequence, stack };
        self.fill(&block, contents);
        self.bytes.set(self.bytes.get() + request.bytes);
        let mut tags = self.tags.borrow_mut();
        let tag = tags.entry(request.tag).or_default();
        *tag = TagUse { blocks: tag.blocks + 1, bytes: tag.bytes + request.bytes, allocations: tag.allocations + 1 };
        self.live.borrow_mut().insert(address, block);
        Ptr::new(address)
    }

    /// Padding before and behind the block, and what the driver finds in it.
    fn fill(&self, block: &Block, contents: Contents) {
        let (start, length) = block.pages();
        let end = block.address + block.request.bytes;
        self.space.fill(start, block.address - start, PADDING);
        self.space.fill(end, start + length - end, PADDING);
        if !block.request.zeroed {
            let pattern = self.unwritten.get().pattern(block.sequence);
            self.space.fill_pattern(block.address, block.request.bytes, pattern);
        } else if contents == Contents::Any {
            self.space.fill(block.address, block.request.bytes, 0);
        }
    }

    /// Frees a block, and returns its pages. `tag` is checked where the caller named one; `stack` is where the driver is.
    pub fn free(&self, address: u64, tag: Option<Tag>, stack: Rc<[u64]>) -> (u64, u64) {
        let Some(block) = self.live.borrow_mut().remove(&address) else { self.refuse_free(address) };
        if let Some(tag) = tag.filter(|tag| *tag != block.request.tag) {
            let sentence = format!("free of a pool block of tag '{}' with tag '{tag}'", block.request.tag);
            let parameters = [WRONG_TAG, address, block.request.tag.0.into(), tag.0.into()];
            block.allocated(Finding::bug_check(BAD_POOL_CALLER, parameters, sentence)).raise();
        }
        self.check_padding(&block);
        let (start, length) = block.pages();
        self.space.close(start, length, PageKind::PoolFreed);
        let (taken, taken_length) = block.with_guards();
        self.space.give_back(arena(block.request.kind), taken, taken_length);
        self.bytes.set(self.bytes.get() - block.request.bytes);
        if let Some(tag) = self.tags.borrow_mut().get_mut(&block.request.tag) {
            *tag = TagUse { blocks: tag.blocks - 1, bytes: tag.bytes - block.request.bytes, ..*tag };
        }
        let mut freed = self.freed.borrow_mut();
        freed.push_back(Freed { block, stack });
        if freed.len() > REMEMBERED {
            freed.pop_front();
        }
        (start, length)
    }

    fn check_padding(&self, block: &Block) {
        let (start, length) = block.pages();
        let end = block.address + block.request.bytes;
        let checks = [(start, block.address, BEFORE, "before"), (end, start + length, BEHIND, "behind")];
        for (from, to, violation, place) in checks {
            if let Some(offset) = self.space.first_other(from, to - from, PADDING) {
                let parameters = [block.address, from + offset, 0, violation];
                let sentence = format!("free of {block}, and memory {place} it was overwritten");
                let finding = Finding::bug_check(SPECIAL_POOL_DETECTED_MEMORY_CORRUPTION, parameters, sentence);
                block.allocated(finding).raise();
            }
        }
    }

    /// Stops the run for a free of what is no block.
    fn refuse_free(&self, address: u64) -> ! {
        if let Some(block) = self.around(address) {
            let sentence =
                format!("free of an address {} bytes from the start of {block}", address.abs_diff(block.address));
            let parameters = [OTHER_ADDRESS, address, block.address, 0];
            block.allocated(Finding::bug_check(VERIFIER, parameters, sentence)).raise();
        }
        let freed = self.freed.borrow().iter().rev().find(|freed| freed.block.address == address).cloned();
        if let Some(freed) = freed {
            let sentence = format!("free of {}, which was freed already", freed.block);
            freed.told(Finding::bug_check(VERIFIER, [FREED_ALREADY, 0, address, 0], sentence)).raise();
        }
        if self.space.contains(Arena::User, address) {
            let parameters = [USER_ADDRESS, address, 0, 0];
            Finding::bug_check(BAD_POOL_CALLER, parameters, "free of an address of a user process").raise();
        }
        let sentence = "free of an address that is no pool block";
        Finding::bug_check(VERIFIER, [NEVER_ALLOCATED, address, 0, 0], sentence).raise()
    }

    /// The block at an address.
    #[must_use]
    pub fn block(&self, address: u64) -> Option<Block> {
        self.live.borrow().get(&address).cloned()
    }

    /// The live block that has some of these bytes.
    pub(crate) fn holding(&self, address: u64, bytes: u64) -> Option<Block> {
        let live = self.live.borrow();
        let (_, block) = live.range(..address + bytes).next_back()?;
        (address < block.address + block.request.bytes).then(|| block.clone())
    }

    /// The live block that has the address, or else the nearer one of those whose guards have.
    #[must_use]
    pub(super) fn around(&self, address: u64) -> Option<Block> {
        let live = self.live.borrow();
        let before = live.range(..=address).next_back();
        let next = live.range(address..).next();
        let near =
            [before, next].into_iter().flatten().filter_map(|(_, block)| Some((block.distance(address)?, block)));
        near.min_by_key(|(distance, _)| *distance).map(|(_, block)| block.clone())
    }

    /// The block that had the address and was freed last.
    #[must_use]
    pub(super) fn freed_around(&self, address: u64) -> Option<Freed> {
        let freed = self.freed.borrow();
        freed.iter().rev().find(|freed| freed.block.distance(address).is_some()).cloned()
    }

    /// The block with this number, live or remembered, if nobody had zeroed it.
    #[must_use]
    pub fn unwritten_block(&self, sequence: u64) -> Option<Block> {
        let wanted = |block: &&Block| block.sequence == sequence && !block.request.zeroed;
        let live = self.live.borrow().values().find(wanted).cloned();
        live.or_else(|| self.freed.borrow().iter().map(|freed| &freed.block).find(wanted).cloned())
    }

    /// The live blocks that the driver answers for, in the order of allocation.
    #[must_use]
    pub fn driver_blocks(&self) -> Vec<Block> {
        let live = self.live.borrow();
        let mut blocks: Vec<Block> =
            live.values().filter(|block| block.request.owner == Owner::Driver).cloned().collect();
        blocks.sort_by_key(|block| block.sequence);
        blocks
    }

    /// What each tag has.
    #[must_use]
    pub fn tags(&self) -> BTreeMap<Tag, TagUse> {
        self.tags.borrow().clone()
    }

    /// Bytes that are allocated.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.bytes.get()
    }
}

/// A number that looks drawn at random for each block of each seed ("Fast Splittable Pseudorandom Number Generators": its finalizer).
const fn mixed(seed: u64, sequence: u64) -> u64 {
    let mut value = seed.wrapping_add(sequence.wrapping_mul(0x9E37_79B9_7F4A_7C15));
    value = (value ^ (value >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    value ^ (value >> 31)
}

const fn arena(kind: PoolKind) -> Arena {
    match kind {
        PoolKind::NonPaged | PoolKind::NonPagedExecute => Arena::Pool,
        PoolKind::Paged => Arena::PagedPool,
    }
}
