//! Pool. Every block ends at a page that faults, and a freed block faults as a whole.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, VecDeque},
    fmt,
    rc::Rc,
};

use super::{Arena, PAGE, PageKind, Ptr, Space};
use crate::finding::Finding;

/// What fills the bytes around a block: a write there is noticed when the block is freed.
pub const PADDING: u8 = 0xA9;
/// What a driver finds in memory it did not ask to have zeroed: as a pointer, one that faults.
pub const UNINITIALIZED: u8 = 0xBD;
/// Blocks of less than a page are aligned so.
const ALIGNMENT: u64 = 16;
/// Freed blocks whose history is remembered.
const REMEMBERED: usize = 4096;

const BAD_POOL_CALLER: u32 = 0xC2;
const FREED_ALREADY: u64 = 0x07;
const WRONG_TAG: u64 = 0x0A;
const NEVER_IN_POOL: u64 = 0x42;
const NOT_A_BLOCK: u64 = 0x46;
const SPECIAL_POOL_DETECTED_MEMORY_CORRUPTION: u32 = 0xC1;
const BEFORE_OR_BESIDE: u64 = 0x23;
const AFTER_THE_END: u64 = 0x24;

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
    const fn pages(&self) -> (u64, u64) {
        let start = self.address / PAGE * PAGE;
        (start, (self.address + self.request.bytes).next_multiple_of(PAGE) - start)
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
    freed: RefCell<VecDeque<Block>>,
    tags: RefCell<BTreeMap<Tag, TagUse>>,
    sequence: Cell<u64>,
    bytes: Cell<u64>,
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
        }
    }

    /// Allocates a block. `stack` is where the driver is.
    pub fn allocate(&self, request: Request, stack: Rc<[u64]>) -> Ptr<u8> {
        let length = request.bytes.next_multiple_of(PAGE);
        let start = self.space.take(arena(request.kind), length + PAGE);
        self.space.open(start, length, request.kind.pages());
        self.space.mark(start + length, PAGE, PageKind::PoolGuard);
        let address = if request.bytes < PAGE {
            let alignment = request.alignment.max(ALIGNMENT);
            (start + length - request.bytes) / alignment * alignment
        } else {
            start
        };
        let sequence = self.sequence.get() + 1;
        self.sequence.set(sequence);
        let block = Block { address, request, sequence, stack };
        self.fill(&block);
        self.bytes.set(self.bytes.get() + request.bytes);
        let mut tags = self.tags.borrow_mut();
        let tag = tags.entry(request.tag).or_default();
        *tag = TagUse { blocks: tag.blocks + 1, bytes: tag.bytes + request.bytes, allocations: tag.allocations + 1 };
        self.live.borrow_mut().insert(address, block);
        Ptr::new(address)
    }

    /// Padding before and behind the block, and what the driver finds in it. Fresh pages are zero.
    fn fill(&self, block: &Block) {
        let (start, length) = block.pages();
        let end = block.address + block.request.bytes;
        self.space.fill(start, block.address - start, PADDING);
        self.space.fill(end, start + length - end, PADDING);
        if !block.request.zeroed {
            self.space.fill(block.address, block.request.bytes, UNINITIALIZED);
        }
    }

    /// Frees a block, and returns its pages. `tag` is checked where the caller named one.
    pub fn free(&self, address: u64, tag: Option<Tag>) -> (u64, u64) {
        let Some(block) = self.live.borrow_mut().remove(&address) else { self.refuse_free(address) };
        if let Some(tag) = tag.filter(|tag| *tag != block.request.tag) {
            let sentence = format!("free of a pool block of tag '{}' with tag '{tag}'", block.request.tag);
            let parameters = [WRONG_TAG, address, block.request.tag.0.into(), tag.0.into()];
            Finding::bug_check(BAD_POOL_CALLER, parameters, sentence).raise();
        }
        self.check_padding(&block);
        let (start, length) = block.pages();
        self.space.close(start, length, PageKind::PoolFreed);
        self.space.give_back(arena(block.request.kind), start, length + PAGE);
        self.bytes.set(self.bytes.get() - block.request.bytes);
        if let Some(tag) = self.tags.borrow_mut().get_mut(&block.request.tag) {
            *tag = TagUse { blocks: tag.blocks - 1, bytes: tag.bytes - block.request.bytes, ..*tag };
        }
        let mut freed = self.freed.borrow_mut();
        freed.push_back(block);
        if freed.len() > REMEMBERED {
            freed.pop_front();
        }
        (start, length)
    }

    fn check_padding(&self, block: &Block) {
        let (start, length) = block.pages();
        let end = block.address + block.request.bytes;
        let checks =
            [(start, block.address, BEFORE_OR_BESIDE, "before"), (end, start + length, AFTER_THE_END, "behind")];
        for (from, to, violation, place) in checks {
            if let Some(offset) = self.space.first_other(from, to - from, PADDING) {
                let parameters = [block.address, from + offset, 0, violation];
                let sentence = format!("free of {block}, and memory {place} it was overwritten");
                Finding::bug_check(SPECIAL_POOL_DETECTED_MEMORY_CORRUPTION, parameters, sentence).raise();
            }
        }
    }

    fn refuse_free(&self, address: u64) -> ! {
        let freed = self.freed.borrow().iter().rev().find(|block| block.address == address).cloned();
        let (violation, sentence) = match (freed, self.around(address)) {
            (_, Some(block)) => {
                let offset = address - block.address;
                (NOT_A_BLOCK, format!("free of an address {offset} bytes into {block}"))
            }
            (Some(block), None) => (FREED_ALREADY, format!("free of {block}, which was freed already")),
            (None, None) => (NEVER_IN_POOL, "free of an address that is no pool block".to_owned()),
        };
        Finding::bug_check(BAD_POOL_CALLER, [violation, address, 0, 0], sentence).raise()
    }

    /// How the block at an address was asked for.
    #[must_use]
    pub fn request(&self, address: u64) -> Option<Request> {
        self.live.borrow().get(&address).map(|block| block.request)
    }

    /// The live block that has the address, or whose guard has.
    #[must_use]
    pub(super) fn around(&self, address: u64) -> Option<Block> {
        let live = self.live.borrow();
        let (_, block) = live.range(..=address).next_back()?;
        let (start, length) = block.pages();
        (address < start + length + PAGE).then(|| block.clone())
    }

    /// The block that had the address and was freed last.
    #[must_use]
    pub(super) fn freed_around(&self, address: u64) -> Option<Block> {
        let freed = self.freed.borrow();
        let mut had = freed.iter().rev().filter(|block| address.wrapping_sub(block.pages().0) < block.pages().1);
        had.next().cloned()
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

const fn arena(kind: PoolKind) -> Arena {
    match kind {
        PoolKind::NonPaged | PoolKind::NonPagedExecute => Arena::Pool,
        PoolKind::Paged => Arena::PagedPool,
    }
}
