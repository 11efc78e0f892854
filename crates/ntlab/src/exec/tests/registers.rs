//! Accesses to device registers in the forms that compilers make.

use std::{cell::RefCell, fs};

use super::guest::{Guest, Running, folder};
use crate::{
    config::Config,
    exec::{self, Bus, Image},
    finding::Cause,
    kernel::Kernel,
    memory::{Ptr, host},
};

const REGISTERS: u64 = 0xD000_0000;

thread_local! {
    /// A device that is plain memory, and every access to it.
    static DEVICE: RefCell<([u8; 4096], Vec<String>)> = const { RefCell::new(([0; 4096], Vec::new())) };
}

fn with<T>(act: impl FnOnce(&mut [u8; 4096], &mut Vec<String>) -> T) -> T {
    DEVICE.with_borrow_mut(|(memory, log)| act(memory, log))
}

fn map(guest: &Running<'_>) -> Ptr<u8> {
    let read = |_: &_, address: u64, size: u8| {
        with(|memory, log| {
            let at = host::to_usize(address - REGISTERS);
            let mut value = [0; 8];
            value[..size.into()].copy_from_slice(&memory[at..at + usize::from(size)]);
            let value = u64::from_le_bytes(value);
            log.push(format!("r{}@{at:#x}={value:x}", size * 8));
            value
        })
    };
    let write = |_: &_, address: u64, size: u8, value: u64| {
        with(|memory, log| {
            let at = host::to_usize(address - REGISTERS);
            log.push(format!("w{}@{at:#x}={value:x}", size * 8));
            memory[at..at + usize::from(size)].copy_from_slice(&value.to_le_bytes()[..size.into()]);
        });
    };
    guest.k.exec.registers.bus.set(Bus { read, write });
    with(|memory, log| {
        memory.fill(0);
        log.clear();
        for (at, value) in [(4, 0x80), (24, 0xFE), (28, 0x34), (29, 0x12), (48, 9)] {
            memory[at] = value;
        }
    });
    guest.k.memory.mappings.map(REGISTERS, 4096)
}

fn log() -> String {
    with(|_, log| log.join(" "))
}

#[test]
fn every_form_of_access_reaches_the_device_once_with_its_size() {
    Guest::new().run(|guest| {
        let registers = map(guest);
        let memory = guest.k.memory.allocate_io_buffer(4096);
        with(|device, _| memory.write_bytes(&device[..]));
        let result = guest.call("mmio_forms", registers.address(), 0);
        // The halves of a 16-byte read come in either order.
        with(|_, log| log[11..].sort());
        assert_eq!(
            log(),
            "w32@0x0=1234 r32@0x0=1234 r32@0x4=80 r32@0x8=0 w32@0x8=100 r32@0x8=100 w64@0x10=ffffffff00000001 \
             r64@0x10=ffffffff00000001 r8@0x18=fe r16@0x1c=1234 w32@0x20=5f800000 r64@0x30=9 r64@0x38=0"
        );
        assert_eq!(result, guest.call("mmio_forms", memory.address(), 0), "as on memory");
        with(|device, _| assert_eq!(device[..], memory.read_bytes(4096)[..]));
    });
}

#[test]
fn read_modify_write_instructions_read_then_write() {
    Guest::new().run(|guest| {
        let registers = map(guest);
        let before = with(|device, _| device[0]);
        assert_eq!(guest.call("mmio_modify", registers.address(), 5), u64::from(before));
        assert_eq!(log(), "r32@0x0=0 w32@0x0=5 r32@0x0=5 w32@0x0=6 r32@0x0=6 w32@0x0=9 r64@0x0=8000000009");
    });
}

#[test]
fn string_instructions_at_registers_are_refused_by_name() {
    Guest::new().run(|guest| {
        let registers = map(guest);
        let memory = guest.k.memory.allocate_io_buffer(16);
        let finding = guest.finding("mmio_string", registers.address(), memory.address());
        assert_eq!(finding.cause, Cause::NotModelled);
        assert_eq!(finding.sentence, "`movsd [rdi],[rsi]` at device registers");
    });
}

#[test]
fn registers_that_were_unmapped_fault() {
    Guest::new().run(|guest| {
        let registers = map(guest);
        guest.k.memory.mappings.unmap(registers.address(), 4096);
        let finding = guest.finding("mmio_forms", registers.address(), 0);
        assert_eq!(finding.sentence, "write to device registers that were unmapped");
    });
}

#[test]
fn an_instruction_that_accessed_registers_accesses_them_again_or_memory() {
    Guest::new().run(|guest| {
        let registers = map(guest);
        let memory = guest.k.memory.allocate_io_buffer(4096);
        let fresh = with(|device, _| *device);
        memory.write_bytes(&fresh);
        let on_device = || {
            with(|device, log| {
                *device = fresh;
                log.clear();
            });
            let result = guest.call("mmio_forms", registers.address(), 0);
            with(|_, log| log[11..].sort());
            (result, log())
        };
        let first = on_device();
        assert_eq!(on_device(), first);
        assert_eq!(guest.call("mmio_forms", memory.address(), 0), first.0);
        assert_eq!(log(), first.1, "no access to the device");
        guest.k.memory.mappings.unmap(registers.address(), 4096);
        let finding = guest.finding("mmio_forms", registers.address(), 0);
        assert_eq!(finding.sentence, "write to device registers that were unmapped");
    });
}

#[test]
fn a_branch_into_what_a_jump_covers_leads_to_the_same_instruction() {
    Guest::new().run(|guest| {
        let registers = map(guest);
        with(|device, _| device[0] = 40);
        for entry in [0, 3] {
            assert_eq!(guest.call("mmio_short", registers.address(), entry), 42);
        }
        assert_eq!(
            has_jump(&guest.image),
            guest.k.exec.detours.is_some(),
            "the instruction was replaced where nothing steps"
        );
        for (entry, result) in [(1, 2), (2, 1), (0, 42)] {
            assert_eq!(guest.call("mmio_short", registers.address(), entry), result);
        }
    });
}

fn has_jump(image: &Image) -> bool {
    let site = image.exports["mmio_short"];
    (0..32).any(|offset| Ptr::<u8>::new(site + offset).read() == 0xE9)
}

#[test]
fn a_machine_begins_with_the_jumps_of_the_one_before_if_it_has_the_same_image() {
    let access = || {
        Guest::new().run_as(Config::default(), |guest| {
            let (was_there, registers) = (has_jump(&guest.image), map(guest));
            with(|device, _| device[0] = 40);
            for (entry, result) in [(0, 42), (1, 2), (2, 1), (0, 42)] {
                assert_eq!(guest.call("mmio_short", registers.address(), entry), result);
            }
            assert_eq!(log(), "r32@0x0=28 r32@0x0=28");
            was_there
        })
    };
    assert_eq!([access(), access(), access()], [false, true, true]);
    let copy = folder().join("copy.sys");
    fs::copy(folder().join("guest.sys"), &copy).expect("there is room for a copy");
    let kernel = Kernel::new(Config::default());
    let _entered = exec::enter(&kernel).expect("signals can be handled");
    assert!(!has_jump(&kernel.exec.load(&copy).expect("the image loads")), "it is another file");
}

#[test]
fn a_mapping_starts_where_its_physical_address_does() {
    Guest::new().run(|guest| {
        map(guest);
        let inside = guest.k.memory.mappings.map(REGISTERS + 0x10, 8);
        assert_eq!(inside.address() % 4096, 0x10);
        guest.call("mmio_read_loop", inside.address(), 2);
        assert_eq!(log(), "r32@0x10=0 r32@0x10=0");
    });
}
