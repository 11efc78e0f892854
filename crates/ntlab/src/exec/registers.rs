//! Accesses to device registers. Their pages fault; the instruction that faulted is encoded again with its memory operand in a cell of
//! ordinary memory, runs natively, and what it left in the cell is written to the device. So every form that compilers make of a
//! volatile access works the same way, without an emulator of instructions.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
};

use iced_x86::{
    Decoder, DecoderOptions, Encoder, FlowControl, Instruction, InstructionInfoFactory, OpAccess, OpKind, Register,
};

use super::{entry::resume_entry, event::Event, shared_data};
use crate::{
    finding::Finding,
    kernel::Kernel,
    memory::{Access, Arena, PAGE, PageKind, Ptr, Space, current, fault, host},
};

/// The longest instruction.
const LONGEST: usize = 15;
/// Room for the code of one instruction and the jump behind it, and for its cell.
const SLOT: u64 = 64;
/// Instructions that can access registers in one run.
const SLOTS: u64 = 4096;
/// Machines start with no more of them.
pub(super) const MANY: usize = 1024;
const WORD: usize = 8;

/// Where accesses to device registers go.
#[derive(Clone, Copy, Debug)]
pub struct Bus {
    /// Reads `size` bytes, 1 to 8, at a physical address.
    pub read: fn(&Kernel, u64, u8) -> u64,
    /// Writes the low `size` bytes of the value.
    pub write: fn(&Kernel, u64, u8, u64),
}

/// An instruction that was encoded again.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slot {
    /// Its code.
    code: u64,
    /// Its memory operand.
    cell: u64,
    size: usize,
    reads: bool,
    writes: bool,
    /// The instruction it was made from, and the one behind that.
    original: u64,
    next: u64,
}

/// All instructions of the driver that have accessed registers.
#[derive(Debug)]
pub struct Registers {
    /// Where accesses go.
    pub bus: Cell<Bus>,
    code: u64,
    cells: u64,
    slots: RefCell<BTreeMap<u64, Slot>>,
    /// The write that waits for its instruction to finish.
    pending: Cell<Option<(Destination, Slot)>>,
}

/// Where what an instruction leaves in its cell goes.
#[derive(Clone, Copy, Debug)]
enum Destination {
    /// To a device, at a physical address.
    Device(u64),
    /// To memory.
    Memory(u64),
}

impl Registers {
    pub(super) fn new(space: &Space) -> Self {
        let room = SLOTS * SLOT;
        let code = space.take(Arena::Kernel, 2 * room);
        space.open(code, room, PageKind::Object);
        space.protect(code, room, PageKind::KernelCode);
        space.open(code + room, room, PageKind::Object);
        let read = |k: &Kernel, address, size| {
            if shared_data::serves(address) {
                shared_data::read(k, address, size)
            } else {
                k.hardware.read(k, address, size)
            }
        };
        let write = |k: &Kernel, address, size, value| k.hardware.write(k, address, size, value);
        let cells = code + room;
        Self { bus: Cell::new(Bus { read, write }), code, cells, slots: RefCell::default(), pending: Cell::new(None) }
    }

    /// Where the code of instructions that were encoded again begins.
    pub(super) const fn base(&self) -> u64 {
        self.code
    }

    /// Address and length of the code of these instructions.
    pub(super) fn code(&self, slots: &BTreeMap<u64, Slot>) -> (u64, usize) {
        (self.code, slots.len() * host::to_usize(SLOT))
    }

    /// Hands out the instructions that were encoded again; None are left.
    pub(super) fn take_slots(&self) -> BTreeMap<u64, Slot> {
        self.slots.take()
    }

    /// The other way round: their code is in place.
    pub(super) fn put_slots(&self, slots: BTreeMap<u64, Slot>) {
        self.slots.replace(slots);
    }

    /// The driver's instruction behind an address in re-encoded code, else the address itself.
    pub(super) fn original(&self, rip: u64) -> u64 {
        if !(self.code..self.cells).contains(&rip) {
            return rip;
        }
        let slot = self.slots.borrow().values().find(|slot| rip.wrapping_sub(slot.code) < SLOT).copied();
        slot.map_or(rip, |slot| slot.original)
    }

    /// Serves an access to registers: the driver goes on in the re-encoded instruction.
    pub(super) fn access(&self, k: &Kernel, event: &mut Event) {
        let Some(physical) = k.memory.mappings.physical(event.address) else {
            fault::refuse(&k.memory, event.address, 1, Access::Read)
        };
        let slot = self.slot(k, event.rip, true);
        self.serve(k, event, physical, slot);
    }

    /// The same where the bus knows it by this address.
    pub(super) fn access_at(&self, k: &Kernel, event: &mut Event, physical: u64) {
        let slot = self.slot(k, event.rip, false);
        self.serve(k, event, physical, slot);
    }

    fn serve(&self, k: &Kernel, event: &mut Event, physical: u64, slot: Slot) {
        k.preempt();
        if slot.reads {
            for (offset, size) in words(slot.size) {
                let value = (self.bus.get().read)(k, physical + offset as u64, size);
                put(slot.cell + offset as u64, size, value);
            }
        }
        if slot.writes {
            self.pending.set(Some((Destination::Device(physical), slot)));
        }
        event.rip = slot.code;
    }

    /// Lets the driver go on in the instruction at which it is as if its memory operand, at `address`, were `before`.
    pub(super) fn run_on(&self, k: &Kernel, event: &mut Event, address: u64, before: &[u8]) {
        let slot = self.slot(k, event.rip, false);
        Ptr::new(slot.cell).write_bytes(before);
        self.pending.set(Some((Destination::Memory(address), slot)));
        event.rip = slot.code;
    }

    /// The re-encoded instruction has run: what it left in its cell goes where it belongs.
    pub(super) fn finish(&self, k: &Kernel, event: &mut Event) {
        let Some((destination, slot)) = self.pending.take() else {
            Finding::not_modelled("a jump into the lab's own code").raise()
        };
        event.rip = slot.next;
        let values: Vec<_> = words(slot.size).map(|(at, size)| (at, size, get(slot.cell + at as u64, size))).collect();
        for (offset, size, value) in values {
            match destination {
                Destination::Device(physical) => (self.bus.get().write)(k, physical + offset as u64, size, value),
                Destination::Memory(address) => put(address + offset as u64, size, value),
            }
        }
    }

    /// The re-encoded instruction. `hot` says that it will often come here: a jump leads to it from then on.
    fn slot(&self, k: &Kernel, rip: u64, hot: bool) -> Slot {
        if let Some(slot) = self.slots.borrow().get(&rip) {
            return *slot;
        }
        let index = self.slots.borrow().len() as u64;
        if index == SLOTS {
            Finding::not_modelled("more than 4,096 instructions that access device registers").raise();
        }
        let original = decode(rip);
        let next = if hot { k.exec.detour(rip) } else { None };
        let slot = self.encode(&k.exec.space, &original, index * SLOT, next.unwrap_or_else(|| original.next_ip()));
        self.slots.borrow_mut().insert(rip, slot);
        slot
    }

    /// Encodes an instruction again, so that the driver goes on at `next` behind it.
    fn encode(&self, space: &Space, original: &Instruction, offset: u64, next: u64) -> Slot {
        let (reads, writes) = accesses(original);
        let (code, cell) = (self.code + offset, self.cells + offset);
        let mut moved = *original;
        moved.set_memory_base(Register::RIP);
        moved.set_memory_index(Register::None);
        moved.set_memory_index_scale(1);
        moved.set_memory_displ_size(8);
        moved.set_memory_displacement64(cell);
        moved.set_segment_prefix(Register::None);
        let mut encoder = Encoder::new(64);
        if let Err(error) = encoder.encode(&moved, code) {
            Finding::not_modelled(format!("`{original}` at device registers: {error}")).raise();
        }
        let mut bytes = encoder.take_buffer();
        bytes.extend([0xFF, 0x25, 0, 0, 0, 0]); // jmp [rip]
        bytes.extend((if writes { resume_entry as *const () as u64 } else { next }).to_le_bytes());
        space.patch(code, &bytes);
        Slot { code, cell, size: original.memory_size().size(), reads, writes, original: original.ip(), next }
    }
}

/// Whether the instruction reads and writes its memory operand. One that cannot be moved is refused.
fn accesses(instruction: &Instruction) -> (bool, bool) {
    let mut factory = InstructionInfoFactory::new();
    let memory = factory.info(instruction).used_memory();
    let own = memory.iter().filter(|used| used.base() == instruction.memory_base() || used.base() != Register::RSP);
    let own: Vec<OpAccess> = own.map(iced_x86::UsedMemory::access).collect();
    let movable = own.len() == 1
        && instruction.op_kinds().any(|kind| kind == OpKind::Memory)
        && instruction.flow_control() == FlowControl::Next
        && instruction.memory_size().size() as u64 <= SLOT;
    if !movable {
        Finding::not_modelled(format!("`{instruction}` at device registers")).raise();
    }
    let any = |wanted: &[OpAccess]| own.iter().any(|access| wanted.contains(access));
    let reads = any(&[OpAccess::Read, OpAccess::CondRead, OpAccess::ReadWrite, OpAccess::ReadCondWrite]);
    let writes = any(&[OpAccess::Write, OpAccess::CondWrite, OpAccess::ReadWrite, OpAccess::ReadCondWrite]);
    (reads, writes)
}

/// The instruction at an address of the driver's code.
pub(super) fn decode(rip: u64) -> Instruction {
    let mut bytes = [0; LONGEST];
    let to_end = host::to_usize(PAGE - rip % PAGE);
    let length = if current::allows(rip, LONGEST as u64, Access::Read) { LONGEST } else { to_end.min(LONGEST) };
    let code = &mut bytes[..length];
    Ptr::new(rip).read_into(code);
    Decoder::with_ip(64, code, rip, DecoderOptions::NONE).decode()
}

/// Offsets and sizes of the accesses that an operand of `size` bytes makes.
fn words(size: usize) -> impl Iterator<Item = (usize, u8)> {
    (0..size)
        .step_by(WORD)
        .map(move |offset| (offset, u8::try_from((size - offset).min(WORD)).expect("a word has 8 bytes")))
}

fn put(address: u64, size: u8, value: u64) {
    Ptr::new(address).write_bytes(&value.to_le_bytes()[..usize::from(size)]);
}

fn get(address: u64, size: u8) -> u64 {
    let mut bytes = [0; WORD];
    Ptr::new(address).read_into(&mut bytes[..usize::from(size)]);
    u64::from_le_bytes(bytes)
}
