//! What a bad access means: the bug check that Windows with Driver Verifier would show for it, in one sentence.

use super::{Access, Memory, PAGE, PageKind, Space, object, pool, unwritten};
use crate::{exec::Exception, finding::Finding, rule::Rule, sched::VERIFIER};

/// `PAGE_FAULT_IN_NONPAGED_AREA`.
const PAGE_FAULT_IN_NONPAGED_AREA: u32 = 0x50;
/// `KMODE_EXCEPTION_NOT_HANDLED`.
pub const KMODE_EXCEPTION_NOT_HANDLED: u32 = 0x1E;
/// `UNEXPECTED_KERNEL_MODE_TRAP`; 8 is the double fault of a stack overflow.
pub const UNEXPECTED_KERNEL_MODE_TRAP: u32 = 0x7F;
const DOUBLE_FAULT: u64 = 8;
const ATTEMPTED_WRITE_TO_READONLY_MEMORY: u32 = 0xBE;
/// `PAGE_FAULT_IN_FREED_SPECIAL_POOL`: by a kernel function.
pub const PAGE_FAULT_IN_FREED_SPECIAL_POOL: u32 = 0xCC;
const DRIVER_PAGE_FAULT_IN_FREED_SPECIAL_POOL: u32 = 0xD5;
/// By a kernel function.
const PAGE_FAULT_BEYOND_END_OF_ALLOCATION: u32 = 0xCD;
const DRIVER_PAGE_FAULT_BEYOND_END_OF_ALLOCATION: u32 = 0xD6;
const DRIVER_UNLOADED_WITHOUT_CANCELLING_PENDING_OPERATIONS: u32 = 0xCE;
/// By a kernel function.
const IRQL_NOT_LESS_OR_EQUAL: u32 = 0x0A;
const DRIVER_IRQL_NOT_LESS_OR_EQUAL: u32 = 0xD1;
const ATTEMPTED_EXECUTE_OF_NOEXECUTE_MEMORY: u32 = 0xFC;
/// Parameter 1 of bug check 0xC4: a kernel function is called with a user's address.
const USER_ADDRESS_AS_PARAMETER: u64 = 0xE0;
/// `STATUS_ACCESS_VIOLATION` as a parameter.
pub const ACCESS_VIOLATION: u64 = 0xC000_0005;

/// Stops the run for an access by a kernel function on behalf of the driver.
#[cold]
#[inline(never)]
pub fn refuse(memory: &Memory, address: u64, length: u64, access: Access) -> ! {
    let first = first_refused(&memory.space, address, length, access);
    end(memory, first, access, 0)
}

/// Ends a bad access: with an exception that the driver can handle where the address is a user's, was probed, and the IRQL lets pages be
/// brought in, else with the finding.
pub fn end(memory: &Memory, address: u64, access: Access, rip: u64) -> ! {
    let finding = finding(memory, address, access, rip);
    let kind = memory.space.kind(address);
    let unexpected = is_unprobed(kind, access) || kind == PageKind::LockedReadOnly;
    if memory.space.is_user(address) && !memory.space.paging_forbidden() && !unexpected {
        Exception::access_violation(address, access, finding).raise();
    }
    finding.raise()
}

/// The first byte of the range that may not be accessed so.
fn first_refused(space: &Space, address: u64, length: u64, access: Access) -> u64 {
    let end = address.saturating_add(length);
    let mut at = address;
    while at < end && space.allows(at, 1, access) {
        at = (at / PAGE + 1) * PAGE;
    }
    at
}

/// What a bad access to `address` by the instruction at `rip` means; `rip` is 0 where a kernel function did it for the driver.
#[must_use]
pub fn finding(memory: &Memory, address: u64, access: Access, rip: u64) -> Finding {
    let kind = memory.space.kind(address);
    if kind.pageable() && memory.space.paging_forbidden() {
        return pageable(&memory.space, address, access, rip);
    }
    match kind {
        PageKind::PoolGuard | PageKind::BufferGuard => return guard(memory, address, access, rip),
        // Before the first block of all there is nothing.
        PageKind::Free if memory.pool.around(address).is_some() => return guard(memory, address, access, rip),
        PageKind::PoolFreed => return freed(memory, address, access, rip),
        PageKind::LockedReadOnly if access == Access::Write => return locked_for_reading(address, rip),
        _ if is_unprobed(kind, access) => return unprobed(address, access, rip),
        _ => {}
    }
    let (code, what) =
        if matches!(kind, PageKind::Free | PageKind::Host) { unmapped(address, access) } else { by_kind(kind, access) };
    let parameters = match code {
        KMODE_EXCEPTION_NOT_HANDLED => [ACCESS_VIOLATION, rip, access.parameter(), address],
        UNEXPECTED_KERNEL_MODE_TRAP => [DOUBLE_FAULT, address, 0, rip],
        _ => [address, access.parameter(), rip, 0],
    };
    Finding::bug_check(code, parameters, format!("{} {what}", access.words()))
}

/// Pageable memory at `DISPATCH_LEVEL` or above.
#[must_use]
pub fn pageable(space: &Space, address: u64, access: Access, rip: u64) -> Finding {
    let irql = space.irql();
    let code = if rip == 0 { IRQL_NOT_LESS_OR_EQUAL } else { DRIVER_IRQL_NOT_LESS_OR_EQUAL };
    let what = match space.kind(address) {
        PageKind::PagedPool => "paged pool",
        PageKind::PagedCode => "code in a pageable section",
        PageKind::UserReadable | PageKind::UserWritable => "a user's buffer",
        _ => "a pageable section",
    };
    let sentence = format!("{} {what} at {irql}", access.words());
    Finding::bug_check(code, [address, irql.0.into(), access.parameter(), rip], sentence)
}

/// Whether the driver has not probed a user's buffer for that.
fn is_unprobed(kind: PageKind, access: Access) -> bool {
    kind == PageKind::UserUnprobed || kind == PageKind::UserReadable && access == Access::Write
}

/// A user's buffer that was not probed. Windows does not notice, and the user has the kernel read or write where he likes.
fn unprobed(address: u64, access: Access, rip: u64) -> Finding {
    let sentence = format!("{} a user's address without a probe of it", access.words());
    if rip == 0 {
        return Finding::bug_check(VERIFIER, [USER_ADDRESS_AS_PARAMETER, address, 0, 0], sentence);
    }
    Rule::UserAddressUnprobed.broken([address, access.parameter(), rip], sentence)
}

/// Windows maps locked pages writable, whatever they were locked for: what the user may only read is written to behind his back.
fn locked_for_reading(address: u64, rip: u64) -> Finding {
    let sentence = "write to a user's buffer whose pages were locked for reading only (IoReadAccess)";
    Rule::LockedForReading.broken([address, rip, 0], sentence)
}

/// The guard page of a pool block.
fn guard(memory: &Memory, address: u64, access: Access, rip: u64) -> Finding {
    let code = if rip == 0 { PAGE_FAULT_BEYOND_END_OF_ALLOCATION } else { DRIVER_PAGE_FAULT_BEYOND_END_OF_ALLOCATION };
    let parameters = [address, access.parameter(), rip, 0];
    let Some(block) = memory.pool.around(address) else {
        let what = if memory.space.kind(address) == PageKind::BufferGuard {
            "memory beyond the end of the buffer of a request"
        } else {
            "memory beside a pool block that was freed"
        };
        return Finding::bug_check(code, parameters, format!("{} {what}", access.words()));
    };
    let place = if address < block.address { "before the start" } else { "beyond the end" };
    let sentence = format!("{} memory {place} of {block}", access.words());
    block.allocated(Finding::bug_check(code, parameters, sentence))
}

/// A pool block that was freed.
fn freed(memory: &Memory, address: u64, access: Access, rip: u64) -> Finding {
    let code = if rip == 0 { PAGE_FAULT_IN_FREED_SPECIAL_POOL } else { DRIVER_PAGE_FAULT_IN_FREED_SPECIAL_POOL };
    let parameters = [address, access.parameter(), rip, 0];
    let freed = memory.pool.freed_around(address);
    let block = freed.as_ref().map_or_else(|| "a pool block".to_owned(), |freed| freed.block.to_string());
    let finding = Finding::bug_check(code, parameters, format!("{} {block} that was freed", access.words()));
    match freed {
        Some(freed) => freed.told(finding),
        None => finding,
    }
}

const fn by_kind(kind: PageKind, access: Access) -> (u32, &'static str) {
    match (kind, access) {
        (PageKind::StackGuard, _) => {
            (UNEXPECTED_KERNEL_MODE_TRAP, "the guard page of a kernel stack: the stack has overflowed")
        }
        (PageKind::ImageDiscarded, _) => {
            (PAGE_FAULT_IN_NONPAGED_AREA, "an INIT section, which is discarded after DriverEntry")
        }
        (PageKind::ImageUnloaded, _) => {
            (DRIVER_UNLOADED_WITHOUT_CANCELLING_PENDING_OPERATIONS, "a driver image that was unloaded")
        }
        (PageKind::PacketFreed, _) => {
            (PAGE_FAULT_IN_FREED_SPECIAL_POOL, "an IRP, or its buffer, after it was completed to its end or freed")
        }
        (PageKind::MmioUnmapped, _) => (PAGE_FAULT_IN_NONPAGED_AREA, "device registers that were unmapped"),
        (
            PageKind::ImageReadOnly | PageKind::ImageCode | PageKind::PagedReadOnly | PageKind::PagedCode,
            Access::Write,
        ) => (ATTEMPTED_WRITE_TO_READONLY_MEMORY, "a read-only section of a driver image"),
        (_, Access::Execute) => (ATTEMPTED_EXECUTE_OF_NOEXECUTE_MEMORY, "memory that is not executable"),
        (PageKind::Mmio, _) => (PAGE_FAULT_IN_NONPAGED_AREA, "device registers by a kernel function"),
        _ => (PAGE_FAULT_IN_NONPAGED_AREA, "memory that may not be accessed so"),
    }
}

fn unmapped(address: u64, access: Access) -> (u32, &'static str) {
    match (address, access) {
        (0..PAGE, Access::Execute) => (KMODE_EXCEPTION_NOT_HANDLED, "a null function pointer"),
        (0..PAGE, _) => (KMODE_EXCEPTION_NOT_HANDLED, "a null pointer"),
        _ => (PAGE_FAULT_IN_NONPAGED_AREA, pattern(address).unwrap_or("an address where nothing is")),
    }
}

/// What an address was read from, if it looks like what the lab leaves behind.
#[must_use]
pub const fn pattern(address: u64) -> Option<&'static str> {
    match address.to_le_bytes() {
        [.., a, b, c, object::POISON] if a == b && b == c && c == object::POISON => {
            Some("a pointer from a kernel structure that was freed")
        }
        [.., a, b, c, unwritten::FILLER] if a == b && b == c && c == unwritten::FILLER => {
            Some("a pointer from pool that was not initialized")
        }
        [.., a, b, c, pool::PADDING] if a == b && b == c && c == pool::PADDING => {
            Some("a pointer from memory beside a pool block")
        }
        _ => None,
    }
}

/// A kernel stack is used up.
#[must_use]
pub fn stack_overflow(address: u64, sentence: String) -> Finding {
    Finding::bug_check(UNEXPECTED_KERNEL_MODE_TRAP, [DOUBLE_FAULT, address, 0, 0], sentence)
}
