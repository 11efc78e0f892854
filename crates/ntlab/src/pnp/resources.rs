//! Resource requirements and resource lists, as they lie in memory.
//!
//! `IO_RESOURCE_REQUIREMENTS_LIST`, `IO_RESOURCE_DESCRIPTOR`, `CM_RESOURCE_LIST` and `CM_PARTIAL_RESOURCE_DESCRIPTOR` as their pages have
//! them. They are handled as bytes, since drivers edit and replace them: nothing in a list that comes back is trusted.

use windows_sys::Wdk::System::SystemServices::{
    CM_RESOURCE_INTERRUPT_LATCHED, CM_RESOURCE_INTERRUPT_LEVEL_SENSITIVE, CM_RESOURCE_INTERRUPT_MESSAGE,
    CM_RESOURCE_INTERRUPT_POLICY_INCLUDED, CmResourceShareDeviceExclusive, CmResourceShareShared,
    CmResourceTypeInterrupt, CmResourceTypeMemory, IO_RESOURCE_ALTERNATIVE, IO_RESOURCE_PREFERRED, PCIBus,
};

/// `CmResourceTypeMemory`.
const TYPE_MEMORY: u8 = narrow(CmResourceTypeMemory);
/// `CmResourceTypeInterrupt`.
const TYPE_INTERRUPT: u8 = narrow(CmResourceTypeInterrupt);
/// The driver or the registry named an affinity policy.
const POLICY_INCLUDED: u16 = narrow(CM_RESOURCE_INTERRUPT_POLICY_INCLUDED) as u16;
/// `CM_RESOURCE_INTERRUPT_MESSAGE_TOKEN`: the highest vector of a message requirement.
pub const MESSAGE_TOKEN: u32 = 0xFFFF_FFFE;
const REQUIREMENTS_HEADER: usize = 32;
const LIST_HEADER: usize = 8;
const REQUIREMENT: usize = 32;
/// wdm.h packs `CM_PARTIAL_RESOURCE_DESCRIPTOR` to 4, which windows-sys has lost.
const ASSIGNMENT: usize = 20;
/// Where the descriptors of a `CM_RESOURCE_LIST` begin.
const LIST_START: usize = 20;
const MAX_ALTERNATIVES: u32 = 64;
const MAX_DESCRIPTORS: u32 = 4096;

/// What a device asks for: one `IO_RESOURCE_DESCRIPTOR`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Requirement {
    /// `Option`: preferred, alternative or neither.
    pub option: u8,
    /// What it asks for.
    pub what: Wanted,
}

/// The types of requirement.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wanted {
    /// Device memory.
    Memory {
        /// Bytes.
        length: u32,
        /// Alignment of its start.
        alignment: u32,
        /// Lowest address.
        lowest: u64,
        /// Highest address of its last byte.
        highest: u64,
    },
    /// An interrupt.
    Interrupt(InterruptWanted),
    /// A type that the lab does not know; the number is its `Type`.
    Other(u8),
}

/// `u.Interrupt` of a requirement.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct InterruptWanted {
    /// A message, not a line.
    pub message: bool,
    /// `MinimumVector`.
    pub lowest: u32,
    /// `MaximumVector`.
    pub highest: u32,
    /// `AffinityPolicy`, if `CM_RESOURCE_INTERRUPT_POLICY_INCLUDED` says that there is one; else the default.
    pub policy: u16,
    /// `Group`.
    pub group: u16,
    /// `PriorityPolicy`.
    pub priority: u32,
    /// `TargetedProcessors`.
    pub targeted: u64,
}

/// A requirements list: alternative lists, the best first.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Requirements {
    /// `SlotNumber`.
    pub slot: u32,
    /// The alternatives.
    pub lists: Vec<Vec<Requirement>>,
}

/// What a driver made of a requirements list that cannot be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Malformed {
    /// It ends inside a structure, or `ListSize` is too small.
    #[error("the resource requirements list is shorter than what it says it holds")]
    Short,
    /// A count is absurd.
    #[error("a count in the resource requirements list is out of range")]
    Count,
}

impl Requirements {
    /// The list as it lies in memory.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let descriptors: usize = self.lists.iter().map(Vec::len).sum();
        let size = REQUIREMENTS_HEADER + self.lists.len() * LIST_HEADER + descriptors * REQUIREMENT;
        let mut bytes = Writer(Vec::with_capacity(size));
        bytes.u32(count(size)).u32(PCIBus.cast_unsigned()).u32(0).u32(self.slot);
        bytes.u32(0).u32(0).u32(0).u32(count(self.lists.len()));
        for list in &self.lists {
            bytes.u16(1).u16(1).u32(count(list.len()));
            for requirement in list {
                requirement.write(&mut bytes);
            }
        }
        bytes.0
    }

    /// How many bytes a list says it has, from its first four.
    #[must_use]
    pub const fn size_of(first: [u8; 4]) -> usize {
        u32::from_le_bytes(first) as usize
    }

    /// Reads a list.
    ///
    /// # Errors
    ///
    /// It says that it holds more than there is.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader(bytes);
        reader.skip(12)?;
        let slot = reader.u32()?;
        reader.skip(12)?;
        let alternatives = at_most(reader.u32()?, MAX_ALTERNATIVES)?;
        let lists = (0..alternatives).map(|_| read_list(&mut reader)).collect::<Result<_, _>>()?;
        Ok(Self { slot, lists })
    }
}

fn read_list(reader: &mut Reader<'_>) -> Result<Vec<Requirement>, Malformed> {
    reader.skip(4)?;
    let descriptors = at_most(reader.u32()?, MAX_DESCRIPTORS)?;
    (0..descriptors).map(|_| Requirement::read(reader)).collect()
}

impl Requirement {
    fn write(&self, bytes: &mut Writer) {
        let start = bytes.0.len();
        match self.what {
            Wanted::Memory { length, alignment, lowest, highest } => {
                bytes.u8(self.option).u8(TYPE_MEMORY).u8(share(CmResourceShareDeviceExclusive)).u8(0);
                bytes.u32(0).u32(length).u32(alignment).u64(lowest).u64(highest);
            }
            Wanted::Interrupt(wanted) => wanted.write(self.option, bytes),
            Wanted::Other(kind) => {
                bytes.u8(self.option).u8(kind).u16(0);
            }
        }
        bytes.0.resize(start + REQUIREMENT, 0);
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        let (option, kind) = (reader.u8()?, reader.u8()?);
        reader.skip(2)?;
        let flags = reader.u16()?;
        reader.skip(2)?;
        let mut union = Reader(reader.take(REQUIREMENT - 8)?);
        let what = match kind {
            TYPE_MEMORY => Wanted::Memory {
                length: union.u32()?,
                alignment: union.u32()?,
                lowest: union.u64()?,
                highest: union.u64()?,
            },
            TYPE_INTERRUPT => Wanted::Interrupt(InterruptWanted::read(flags, &mut union)?),
            _ => Wanted::Other(kind),
        };
        Ok(Self { option, what })
    }
}

impl InterruptWanted {
    /// The PCI line `line`.
    #[must_use]
    pub const fn line(line: u32) -> Self {
        Self { message: false, lowest: line, highest: line, policy: 0, group: 0, priority: 0, targeted: 0 }
    }

    /// One message.
    #[must_use]
    pub const fn message() -> Self {
        Self {
            message: true,
            lowest: MESSAGE_TOKEN,
            highest: MESSAGE_TOKEN,
            policy: 0,
            group: 0,
            priority: 0,
            targeted: 0,
        }
    }

    /// How many messages it asks for.
    #[must_use]
    pub const fn messages(&self) -> u32 {
        self.highest.wrapping_sub(self.lowest).wrapping_add(1)
    }

    fn write(&self, option: u8, bytes: &mut Writer) {
        bytes.u8(option).u8(TYPE_INTERRUPT).u8(share_of(self.message)).u8(0);
        let included = if self.policy == 0 { 0 } else { POLICY_INCLUDED };
        bytes.u16(interrupt_flags(self.message) | included).u16(0).u32(self.lowest).u32(self.highest);
        bytes.u16(self.policy).u16(self.group).u32(self.priority).u64(self.targeted);
    }

    fn read(flags: u16, union: &mut Reader<'_>) -> Result<Self, Malformed> {
        let message = u32::from(flags) & CM_RESOURCE_INTERRUPT_MESSAGE != 0;
        let (lowest, highest) = (union.u32()?, union.u32()?);
        let (policy, group, priority, targeted) = (union.u16()?, union.u16()?, union.u32()?, union.u64()?);
        let plain = Self { message, lowest, highest, policy: 0, group: 0, priority: 0, targeted: 0 };
        Ok(if flags & POLICY_INCLUDED == 0 { plain } else { Self { policy, group, priority, targeted, ..plain } })
    }
}

/// The preferred way to satisfy the requirement before it.
#[must_use]
pub const fn preferred(what: Wanted) -> Requirement {
    Requirement { option: narrow(IO_RESOURCE_PREFERRED), what }
}

/// Another way to satisfy the requirement before it.
#[must_use]
pub const fn alternative(what: Wanted) -> Requirement {
    Requirement { option: narrow(IO_RESOURCE_ALTERNATIVE), what }
}

/// A requirement without alternatives.
#[must_use]
pub const fn only(what: Wanted) -> Requirement {
    Requirement { option: 0, what }
}

/// The requirements of a list, each with its alternatives, the preferred one first.
#[must_use]
pub fn by_alternatives(list: &[Requirement]) -> Vec<Vec<Wanted>> {
    let mut groups: Vec<Vec<Wanted>> = Vec::new();
    for requirement in list {
        match groups.last_mut() {
            Some(group) if u32::from(requirement.option) & IO_RESOURCE_ALTERNATIVE != 0 => group.push(requirement.what),
            _ => groups.push(vec![requirement.what]),
        }
    }
    groups
}

/// What a device was given: one `CM_PARTIAL_RESOURCE_DESCRIPTOR`, raw and translated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Assigned {
    /// Device memory.
    Memory {
        /// Physical address.
        start: u64,
        /// Bytes.
        length: u32,
    },
    /// An interrupt.
    Interrupt(AssignedInterrupt),
}

/// An interrupt that was assigned to a device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AssignedInterrupt {
    /// A message, not a line.
    pub message: bool,
    /// The interrupt line, for a line.
    pub line: u32,
    /// The system's vector.
    pub vector: u32,
    /// The device IRQL.
    pub irql: u8,
    /// The processor group.
    pub group: u16,
    /// The processors, within the group.
    pub affinity: u64,
}

/// A `CM_RESOURCE_LIST` with one full descriptor, as it lies in memory.
#[must_use]
pub fn resource_list(assigned: &[Assigned], translated: bool) -> Vec<u8> {
    let mut bytes = Writer(Vec::with_capacity(LIST_START + assigned.len() * ASSIGNMENT));
    bytes.u32(1).u32(PCIBus.cast_unsigned()).u32(0).u16(1).u16(1).u32(count(assigned.len()));
    for assignment in assigned {
        let start = bytes.0.len();
        match *assignment {
            Assigned::Memory { start, length } => {
                bytes.u8(TYPE_MEMORY).u8(share(CmResourceShareDeviceExclusive)).u16(0);
                bytes.u64(start).u32(length);
            }
            Assigned::Interrupt(interrupt) => interrupt.write(translated, &mut bytes),
        }
        bytes.0.resize(start + ASSIGNMENT, 0);
    }
    bytes.0
}

impl AssignedInterrupt {
    fn write(&self, translated: bool, bytes: &mut Writer) {
        bytes.u8(TYPE_INTERRUPT).u8(share_of(self.message)).u16(interrupt_flags(self.message));
        match (translated, self.message) {
            (true, _) => bytes.u16(u16::from(self.irql)).u16(self.group).u32(self.vector),
            (false, true) => bytes.u16(self.group).u16(1).u32(self.vector),
            (false, false) => bytes.u16(narrow_line(self.line)).u16(self.group).u32(self.line),
        };
        bytes.u64(self.affinity);
    }
}

#[allow(clippy::cast_possible_truncation, reason = "lines are few")]
const fn narrow_line(line: u32) -> u16 {
    line as u16
}

#[allow(clippy::cast_possible_truncation, reason = "resource types and flags are small constants")]
const fn narrow(constant: u32) -> u8 {
    constant as u8
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "share dispositions are small constants")]
const fn share(disposition: i32) -> u8 {
    disposition as u8
}

const fn share_of(message: bool) -> u8 {
    share(if message { CmResourceShareDeviceExclusive } else { CmResourceShareShared })
}

#[allow(clippy::cast_possible_truncation, reason = "flags are small constants")]
const fn interrupt_flags(message: bool) -> u16 {
    if message {
        (CM_RESOURCE_INTERRUPT_LATCHED | CM_RESOURCE_INTERRUPT_MESSAGE) as u16
    } else {
        CM_RESOURCE_INTERRUPT_LEVEL_SENSITIVE as u16
    }
}

fn count(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

const fn at_most(value: u32, most: u32) -> Result<u32, Malformed> {
    if value > most { Err(Malformed::Count) } else { Ok(value) }
}

struct Writer(Vec<u8>);

impl Writer {
    fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }
    fn u8(&mut self, value: u8) -> &mut Self {
        self.bytes(&[value])
    }
    fn u16(&mut self, value: u16) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }
    fn u32(&mut self, value: u32) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }
    fn u64(&mut self, value: u64) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    const fn take(&mut self, bytes: usize) -> Result<&'a [u8], Malformed> {
        let Some((taken, rest)) = self.0.split_at_checked(bytes) else { return Err(Malformed::Short) };
        self.0 = rest;
        Ok(taken)
    }
    const fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let Some((taken, rest)) = self.0.split_first_chunk() else { return Err(Malformed::Short) };
        self.0 = rest;
        Ok(*taken)
    }
    fn skip(&mut self, bytes: usize) -> Result<(), Malformed> {
        self.take(bytes).map(drop)
    }
    fn u8(&mut self) -> Result<u8, Malformed> {
        self.array().map(u8::from_le_bytes)
    }
    fn u16(&mut self) -> Result<u16, Malformed> {
        self.array().map(u16::from_le_bytes)
    }
    fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_le_bytes)
    }
    fn u64(&mut self) -> Result<u64, Malformed> {
        self.array().map(u64::from_le_bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use windows_sys::Wdk::System::SystemServices::{IO_RESOURCE_DESCRIPTOR, IO_RESOURCE_REQUIREMENTS_LIST};

    use super::*;

    const MEMORY: Wanted =
        Wanted::Memory { length: 0x10_0000, alignment: 0x10_0000, lowest: 0xC000_0000, highest: 0xFEBF_FFFF };
    const POLICY: InterruptWanted = InterruptWanted {
        policy: 4,
        group: 3,
        priority: 2,
        targeted: 0x8000_0000_0000_0001,
        ..InterruptWanted::message()
    };

    fn requirements() -> Requirements {
        let first = vec![
            only(MEMORY),
            preferred(Wanted::Interrupt(POLICY)),
            alternative(Wanted::Interrupt(InterruptWanted::line(20))),
        ];
        Requirements { slot: 4, lists: vec![first, vec![only(MEMORY)]] }
    }

    #[test]
    fn a_requirements_list_reads_back_as_it_was_written() {
        let bytes = requirements().to_bytes();
        assert_eq!(Requirements::size_of(bytes[..4].try_into().unwrap()), bytes.len());
        assert_eq!(Requirements::from_bytes(&bytes), Ok(requirements()));
    }

    #[test]
    fn a_policy_counts_only_where_the_flags_say_that_there_is_one() {
        let mut bytes = requirements().to_bytes();
        let flags = REQUIREMENTS_HEADER + LIST_HEADER + REQUIREMENT + 4;
        assert_eq!(bytes[flags], 0b111);
        bytes[flags] = 0b011;
        let read = Requirements::from_bytes(&bytes).unwrap().lists[0][1].what;
        assert_eq!(read, Wanted::Interrupt(InterruptWanted::message()));
    }

    #[test]
    fn a_list_that_ends_early_is_refused_wherever_it_ends() {
        let bytes = requirements().to_bytes();
        for end in 0..bytes.len() {
            assert_eq!(Requirements::from_bytes(&bytes[..end]), Err(Malformed::Short), "{end} bytes");
        }
    }

    #[test]
    fn absurd_counts_are_refused() {
        let mut bytes = requirements().to_bytes();
        bytes[28..32].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(Requirements::from_bytes(&bytes), Err(Malformed::Count));
    }

    #[test]
    fn alternatives_belong_to_the_requirement_before_them() {
        let line = Wanted::Interrupt(InterruptWanted::line(20));
        assert_eq!(by_alternatives(&requirements().lists[0]), [vec![MEMORY], vec![Wanted::Interrupt(POLICY), line]]);
    }

    #[test]
    fn the_layout_is_that_of_the_headers() {
        assert_eq!(REQUIREMENT, size_of::<IO_RESOURCE_DESCRIPTOR>());
        assert_eq!(REQUIREMENTS_HEADER, offset_of!(IO_RESOURCE_REQUIREMENTS_LIST, List));
        assert_eq!(REQUIREMENTS_HEADER + LIST_HEADER + REQUIREMENT, size_of::<IO_RESOURCE_REQUIREMENTS_LIST>());
        assert_eq!((offset_of!(IO_RESOURCE_DESCRIPTOR, Flags), offset_of!(IO_RESOURCE_DESCRIPTOR, u)), (4, 8));
    }

    #[test]
    fn messages_ask_for_vectors_up_to_the_token() {
        let two = InterruptWanted { lowest: MESSAGE_TOKEN - 1, ..InterruptWanted::message() };
        assert_eq!((InterruptWanted::message().messages(), two.messages()), (1, 2));
    }

    #[test]
    fn translated_and_raw_interrupts_carry_level_group_vector_and_affinity() {
        let message = AssignedInterrupt { message: true, line: 0, vector: 0x61, irql: 6, group: 1, affinity: 0b101 };
        let list =
            |interrupt, translated| resource_list(&[Assigned::Interrupt(interrupt)], translated)[LIST_START..].to_vec();
        assert_eq!(list(message, true), [2, 1, 3, 0, 6, 0, 1, 0, 0x61, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(list(message, false), [2, 1, 3, 0, 1, 0, 1, 0, 0x61, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0]);
        let line = AssignedInterrupt { message: false, line: 20, ..message };
        assert_eq!(list(line, true), [2, 3, 0, 0, 6, 0, 1, 0, 0x61, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(list(line, false), [2, 3, 0, 0, 20, 0, 1, 0, 20, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0]);
    }
}
