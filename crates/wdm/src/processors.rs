//! Processors, groups and NUMA nodes, and their hot-add ("Supporting Systems That Have More Than 64 Processors",
//! "Dynamic Hardware Partitioning").
//!
//! Nothing here counts the bits of a mask, and masks may have gaps.

use core::ptr;

use wdk_sys::{
    _LOGICAL_PROCESSOR_RELATIONSHIP, ALL_PROCESSOR_GROUPS, INVALID_PROCESSOR_INDEX, PROCESSOR_NUMBER,
    SYSTEM_LOGICAL_PROCESSOR_INFORMATION_EX, ntddk,
};

use crate::imports;
use crate::kernel::word;
use crate::status::check;

mod change;

pub use change::{AddedProcessor, ProcessorChange, ProcessorChangeCallback};

/// A processor by group and number in the group ("`PROCESSOR_NUMBER` structure").
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ProcessorNumber {
    /// The group.
    pub group: u16,
    /// The number in the group, 0 to 63.
    pub number: u8,
}

/// Processors of one group.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct GroupAffinity {
    /// The group.
    pub group: u16,
    /// A bit for each.
    pub mask: u64,
}

impl ProcessorNumber {
    /// As the kernel takes it.
    pub(crate) const fn raw(self) -> PROCESSOR_NUMBER {
        PROCESSOR_NUMBER { Group: self.group, Number: self.number, Reserved: 0 }
    }

    /// From what the kernel gives.
    pub(crate) const fn from_raw(raw: PROCESSOR_NUMBER) -> Self {
        Self { group: raw.Group, number: raw.Number }
    }
}

/// How many processors are active ("`KeQueryActiveProcessorCountEx` function").
///
/// IRQL: any.
#[must_use]
pub fn active_count() -> u32 {
    // SAFETY: callable at any IRQL.
    unsafe { imports::KeQueryActiveProcessorCountEx(word(ALL_PROCESSOR_GROUPS)) }
}

/// How many processors there can ever be ("`KeQueryMaximumProcessorCountEx` function").
///
/// IRQL: any.
#[must_use]
pub fn maximum_count() -> u32 {
    // SAFETY: callable at any IRQL.
    unsafe { ntddk::KeQueryMaximumProcessorCountEx(word(ALL_PROCESSOR_GROUPS)) }
}

/// How many groups have active processors ("`KeQueryActiveGroupCount` function").
///
/// IRQL: any.
#[must_use]
pub fn active_groups() -> u16 {
    // SAFETY: callable at any IRQL.
    unsafe { ntddk::KeQueryActiveGroupCount() }
}

/// The active processors of `group` ("`KeQueryGroupAffinity` function").
///
/// IRQL: any.
#[must_use]
pub fn group_affinity(group: u16) -> GroupAffinity {
    // SAFETY: callable at any IRQL; a group that is not there has none.
    let mask = unsafe { ntddk::KeQueryGroupAffinity(group) };
    GroupAffinity { group, mask }
}

/// The index of the processor that this runs on ("`KeGetCurrentProcessorNumberEx` function"). Below DISPATCH_LEVEL it may be another by
/// the time it is used.
///
/// IRQL: any.
#[inline]
#[must_use]
pub fn current() -> u32 {
    // SAFETY: callable at any IRQL; the number is optional.
    unsafe { imports::KeGetCurrentProcessorNumberEx(ptr::null_mut()) }
}

/// The index of a processor; none where there is no such active one ("`KeGetProcessorIndexFromNumber` function").
///
/// IRQL: any.
#[must_use]
pub fn index_of(processor: ProcessorNumber) -> Option<u32> {
    let mut number = processor.raw();
    // SAFETY: callable at any IRQL; the number outlives the call.
    let index = unsafe { ntddk::KeGetProcessorIndexFromNumber(&raw mut number) };
    (index != INVALID_PROCESSOR_INDEX).then_some(index)
}

/// The number of a processor; none where there is no such active one ("`KeGetProcessorNumberFromIndex` function").
///
/// IRQL: any.
#[must_use]
pub fn number_of(index: u32) -> Option<ProcessorNumber> {
    let mut number = PROCESSOR_NUMBER::default();
    // SAFETY: callable at any IRQL; the number outlives the call.
    check(unsafe { ntddk::KeGetProcessorNumberFromIndex(index, &raw mut number) }).ok()?;
    Some(ProcessorNumber::from_raw(number))
}

/// The NUMA node of a processor ("`KeQueryLogicalProcessorRelationship` function"). The page does not say whether the system tells it of a
/// processor that is not active yet; none where it does not.
///
/// IRQL: <= DISPATCH_LEVEL.
#[must_use]
pub fn node_of(processor: ProcessorNumber) -> Option<u16> {
    let mut number = processor.raw();
    let mut information = SYSTEM_LOGICAL_PROCESSOR_INFORMATION_EX::default();
    let mut length = u32::try_from(size_of_val(&information)).ok()?;
    // SAFETY: at most DISPATCH_LEVEL by contract; number, information and its length outlive the call.
    let status = unsafe {
        ntddk::KeQueryLogicalProcessorRelationship(
            &raw mut number,
            _LOGICAL_PROCESSOR_RELATIONSHIP::RelationNumaNode,
            &raw mut information,
            &raw mut length,
        )
    };
    check(status).ok()?;
    // SAFETY: asked for the node of one processor, the kernel writes one structure with this member of the union.
    let node = unsafe { information.__bindgen_anon_1.NumaNode };
    u16::try_from(node.NodeNumber).ok()
}
