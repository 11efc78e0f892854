//! The machine's memory: one reserved range of addresses, and who may touch which page of it.

pub(crate) mod current;
pub(crate) mod fault;
pub(crate) mod host;
mod mapping;
mod object;
mod page;
mod physical;
mod pointer;
mod pool;
mod reservation;
mod space;
#[cfg(test)]
mod tests;
pub(crate) mod unwritten;

use std::rc::Rc;

pub use self::{
    host::PAGE,
    mapping::{Mapping, Mappings},
    page::{Access, PageKind},
    physical::{Physical, RamRange},
    pointer::{Ptr, Writable, placeholder},
    pool::{Block, Owner, Pool, PoolKind, Request, Tag, TagUse},
    reservation::GuardMethod,
    space::{Arena, Space},
};
use self::{
    object::ObjectStore,
    unwritten::{Found, SYSTEM_BUFFER},
};
use crate::{finding::Finding, kernel::Kernel, tracking};

/// `BAD_POOL_CALLER`, and its parameter for what was never allocated or freed already.
const BAD_POOL_CALLER: u32 = 0xC2;
const NOT_ALLOCATED: u64 = 0x07;
/// Tag of buffers that the kernel makes for requests.
const IO_BUFFER: [u8; 4] = *b"IoBf";
/// Tag of common buffers.
const COMMON_BUFFER: [u8; 4] = *b"DmaC";

/// Packets start at multiples of this.
const PACKET_ALIGNMENT: u64 = 16;

const fn packet_pages(bytes: usize) -> u64 {
    (bytes as u64).next_multiple_of(PACKET_ALIGNMENT).next_multiple_of(PAGE)
}

/// All memory of one machine.
#[derive(Debug)]
pub struct Memory {
    /// The addresses, and what each page is.
    pub space: Rc<Space>,
    /// Pool.
    pub pool: Pool,
    /// RAM.
    pub physical: Physical,
    /// Device registers that are mapped.
    pub mappings: Mappings,
    objects: ObjectStore,
}

impl Memory {
    /// The memory of a new machine with so many bytes of RAM.
    ///
    /// # Panics
    /// Where the host has no address space for one.
    #[must_use]
    pub fn new(ram: u64) -> Self {
        let space = Space::new().unwrap_or_else(|error| panic!("the host has no address space for a machine: {error}"));
        Self::of(space, ram)
    }

    /// The memory of a new machine in these addresses.
    pub(crate) fn of(space: Space, ram: u64) -> Self {
        let space = Rc::new(space);
        Self {
            pool: Pool::new(&space),
            physical: Physical::new(&space, ram),
            mappings: Mappings::new(&space),
            objects: ObjectStore::new(&space),
            space,
        }
    }

    /// Makes what is left to chance in it another.
    pub(crate) fn seed(&self, seed: u64) {
        self.pool.seed(seed);
    }

    /// Makes a zeroed structure of the kernel's.
    #[must_use]
    pub fn allocate_object<T>(&self) -> Ptr<T> {
        self.allocate_object_bytes(size_of::<T>()).cast()
    }

    /// Makes a zeroed structure of the kernel's with `bytes` bytes, at most 64 KiB.
    #[must_use]
    pub fn allocate_object_bytes(&self, bytes: usize) -> Ptr<u8> {
        Ptr::new(self.objects.allocate(bytes as u64))
    }

    /// Frees a structure. One that is not there, because it was freed already, is a finding.
    pub fn free_object<T>(&self, object: Ptr<T>) {
        if !self.objects.free(object.address()) {
            let parameters = [NOT_ALLOCATED, 0, 0, object.address()];
            Finding::bug_check(BAD_POOL_CALLER, parameters, "free of a kernel structure that is not allocated").raise();
        }
    }

    /// Zeroed memory for a packet on pages of its own, at their end.
    #[must_use]
    pub fn allocate_packet(&self, bytes: usize) -> Ptr<u8> {
        let pages = packet_pages(bytes);
        let start = self.space.take(Arena::Packets, pages);
        self.space.open(start, pages, PageKind::Packet);
        Ptr::new(start + pages - (bytes as u64).next_multiple_of(PACKET_ALIGNMENT))
    }

    /// Whether [`Memory::allocate_packet`] made it.
    #[must_use]
    pub fn is_packet(&self, packet: Ptr<u8>) -> bool {
        self.space.contains(Arena::Packets, packet.address())
    }

    /// Frees what [`Memory::allocate_packet`] returned for so many bytes: from now on its pages fault.
    pub fn free_packet(&self, packet: Ptr<u8>, bytes: usize) {
        let (start, pages) = (packet.address() / PAGE * PAGE, packet_pages(bytes));
        self.space.close(start, pages, PageKind::PacketFreed);
        self.physical.forget(start, pages);
        self.space.give_back(Arena::Packets, start, pages);
    }

    /// Whether the pointer is that of a structure that was made and not freed.
    #[must_use]
    pub fn is_object<T>(&self, object: Ptr<T>) -> bool {
        self.objects.is_live(object)
    }

    /// The structure around an address: its start and size.
    pub(crate) fn object_around(&self, address: u64) -> Option<(u64, u64)> {
        self.objects.around(address)
    }

    /// How many structures there are.
    #[must_use]
    pub fn objects(&self) -> usize {
        self.objects.live()
    }

    /// Allocates a zeroed pool block that the driver will free; None if there is not enough memory.
    pub fn allocate_pool(&self, k: &Kernel, kind: PoolKind, bytes: usize, tag: u32) -> Option<Ptr<u8>> {
        let request = Request { kind, owner: Owner::Driver, tag: Tag(tag), ..Request::kernel(bytes as u64, &[0; 4]) };
        self.allocate(k, request)
    }

    /// Allocates a pool block; None if there is not enough memory.
    pub fn allocate(&self, k: &Kernel, request: Request) -> Option<Ptr<u8>> {
        let room = self.physical.bytes() - self.pool.bytes();
        (request.bytes <= room).then(|| self.pool.allocate(request, k.exec.driver_stack()))
    }

    /// Frees a pool block. `tag` is checked where the caller named one.
    pub fn free_pool(&self, k: &Kernel, block: Ptr<u8>, tag: Option<u32>) {
        if let Some(block) = self.pool.block(block.address()) {
            tracking::check_freed(k, block.address, block.request.bytes);
        }
        let (start, length) = self.pool.free(block.address(), tag.map(Tag), k.exec.driver_stack());
        self.physical.forget(start, length);
    }

    /// A buffer that the kernel makes for a request. It ends at a guard page.
    #[must_use]
    pub fn allocate_io_buffer(&self, bytes: usize) -> Ptr<u8> {
        self.pool.allocate(Request::kernel(bytes as u64, &IO_BUFFER), Rc::default())
    }

    /// Memory of a user process. It ends at a guard page.
    #[must_use]
    pub fn allocate_user(&self, bytes: usize) -> Ptr<u8> {
        let length = (bytes as u64).next_multiple_of(PAGE);
        let start = self.space.take(Arena::User, length + PAGE);
        self.space.open(start, length, PageKind::User);
        Ptr::new(start + length - bytes as u64)
    }

    /// Frees what [`Memory::allocate_user`] returned for so many bytes.
    pub fn free_user(&self, memory: Ptr<u8>, bytes: usize) {
        let start = memory.address() / PAGE * PAGE;
        let length = (memory.address() + bytes as u64).next_multiple_of(PAGE) - start;
        self.space.close(start, length, PageKind::Free);
        self.physical.forget(start, length);
        self.space.give_back(Arena::User, start, length + PAGE);
    }

    /// Fills memory as unwritten memory of a block with this number is.
    pub fn fill_unwritten(&self, start: Ptr<u8>, bytes: usize, block: u64) {
        self.space.fill_pattern(start.address(), bytes as u64, self.pool.unwritten().pattern(block));
    }

    /// The first word in `bytes` of memory that nobody has written.
    #[must_use]
    pub fn find_unwritten(&self, bytes: &[u8]) -> Option<Found> {
        let known = |block| block == SYSTEM_BUFFER || self.pool.unwritten_block(block).is_some();
        self.pool.unwritten().find(bytes, known)
    }

    /// A driver has probed a user's buffer: its pages can be accessed so until the request ends, at an IRQL that lets them be brought in.
    pub fn probe(&self, address: u64, length: u64, access: Access) {
        let probed = if access == Access::Write { PageKind::UserWritable } else { PageKind::UserReadable };
        for page in (address / PAGE..=(address + length.max(1) - 1) / PAGE).map(|page| page * PAGE) {
            let kind = self.space.kind(page);
            if kind == PageKind::UserUnprobed || kind == PageKind::UserReadable && access == Access::Write {
                self.space.protect(page, PAGE, probed);
            }
        }
    }

    /// The physical address of an address; a bad one is a finding.
    #[must_use]
    pub fn physical_address(&self, address: u64) -> u64 {
        let found = self.physical.address(address);
        found.unwrap_or_else(|| fault::refuse(self, address, 1, Access::Read))
    }

    /// A buffer of physically contiguous memory whose addresses, physical ones, are not above `highest`; None if there is none.
    #[must_use]
    pub fn allocate_common_buffer(&self, bytes: usize, highest: u64) -> Option<(Ptr<u8>, u64)> {
        let bytes = (bytes as u64).next_multiple_of(PAGE);
        let buffer = self.pool.allocate(Request::kernel(bytes, &COMMON_BUFFER), Rc::default());
        let physical = self.physical.bind_low(buffer.address(), bytes, highest);
        if physical.is_none() {
            self.pool.free(buffer.address(), None, Rc::default());
        }
        physical.map(|physical| (buffer, physical))
    }

    /// Frees a common buffer.
    pub fn free_common_buffer(&self, buffer: Ptr<u8>) {
        let (start, length) =
            self.pool.free(buffer.address(), Some(Tag(u32::from_le_bytes(COMMON_BUFFER))), Rc::default());
        self.physical.forget(start, length);
    }

    /// What a device reads at a physical address: zeros where no RAM is.
    pub fn dma_read(&self, physical: u64, bytes: &mut [u8]) {
        self.physical.dma_read(physical, bytes);
    }

    /// What a device writes at a physical address: nothing where no RAM is.
    pub fn dma_write(&self, physical: u64, bytes: &[u8]) {
        self.physical.dma_write(physical, bytes);
    }
}
