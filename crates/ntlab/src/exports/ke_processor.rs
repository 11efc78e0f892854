//! Processors, groups and nodes.

use windows_sys::Win32::{
    Foundation::{STATUS_INFO_LENGTH_MISMATCH, STATUS_INVALID_PARAMETER, STATUS_SUCCESS},
    System::{
        Kernel::PROCESSOR_NUMBER,
        SystemInformation::{GROUP_AFFINITY, RelationNumaNode, SYSTEM_LOGICAL_PROCESSOR_INFORMATION_EX},
    },
};

use super::Export;
use crate::{
    at, export,
    finding::Finding,
    hot_add,
    irql::{DISPATCH_LEVEL, any_level, at_most},
    kernel::Kernel,
    memory::Ptr,
    sched::{Affinity, Topology},
};

/// The functions of this module.
pub const FUNCTIONS: &[Export] = &[
    export!("KeGetCurrentProcessorNumberEx", any_level(), ke_get_current_processor_number_ex),
    export!("KeGetCurrentNodeNumber", any_level(), ke_get_current_node_number),
    export!("KeGetProcessorIndexFromNumber", any_level(), ke_get_processor_index_from_number),
    export!("KeGetProcessorNumberFromIndex", any_level(), ke_get_processor_number_from_index),
    export!("KeQueryActiveGroupCount", any_level(), ke_query_active_group_count),
    export!("KeQueryMaximumGroupCount", any_level(), ke_query_maximum_group_count),
    export!("KeQueryActiveProcessorCountEx", any_level(), ke_query_active_processor_count_ex),
    export!("KeQueryMaximumProcessorCountEx", any_level(), ke_query_maximum_processor_count_ex),
    export!("KeQueryGroupAffinity", any_level(), ke_query_group_affinity),
    export!("KeQueryHighestNodeNumber", any_level(), ke_query_highest_node_number),
    export!("KeQueryNodeActiveAffinity", any_level(), ke_query_node_active_affinity),
    export!("KeQueryLogicalProcessorRelationship", at_most(DISPATCH_LEVEL), ke_query_logical_processor_relationship),
    export!("KeQueryNodeMaximumProcessorCount", any_level(), ke_query_node_maximum_processor_count),
    export!("KeSetSystemGroupAffinityThread", at_most(DISPATCH_LEVEL), ke_set_system_group_affinity_thread),
    export!("KeRevertToUserGroupAffinityThread", at_most(DISPATCH_LEVEL), ke_revert_to_user_group_affinity_thread),
];

/// The size of a `SYSTEM_LOGICAL_PROCESSOR_INFORMATION_EX` with a node and its one group.
const NODE_INFORMATION: u32 = 48;
/// `INVALID_PROCESSOR_INDEX`.
const INVALID_PROCESSOR_INDEX: u32 = u32::MAX;

/// "`KeGetCurrentProcessorNumberEx` function".
fn ke_get_current_processor_number_ex(k: &Kernel, number: Ptr<PROCESSOR_NUMBER>) -> u32 {
    let processor = k.current_processor();
    if !number.is_null() {
        number.write(PROCESSOR_NUMBER { Group: processor.place.group, Number: processor.place.number, Reserved: 0 });
    }
    processor.index
}

/// "`KeGetCurrentNodeNumber` function".
const fn ke_get_current_node_number(k: &Kernel) -> u16 {
    k.current_processor().place.node
}

/// "`KeGetProcessorIndexFromNumber` function".
fn ke_get_processor_index_from_number(k: &Kernel, number: Ptr<PROCESSOR_NUMBER>) -> u32 {
    let PROCESSOR_NUMBER { Group, Number, Reserved } = number.read();
    let index = k.sched.topology.active_index(Group, Number).filter(|_| Reserved == 0);
    index.unwrap_or(INVALID_PROCESSOR_INDEX)
}

/// "`KeGetProcessorNumberFromIndex` function". It fails for a processor that is not active.
fn ke_get_processor_number_from_index(k: &Kernel, index: u32, number: Ptr<PROCESSOR_NUMBER>) -> i32 {
    let Some(processor) = k.sched.processor(index) else { return STATUS_INVALID_PARAMETER };
    number.write(PROCESSOR_NUMBER { Group: processor.place.group, Number: processor.place.number, Reserved: 0 });
    0
}

/// "`KeQueryActiveGroupCount` function".
fn ke_query_active_group_count(k: &Kernel) -> u16 {
    k.sched.topology.active_groups()
}

/// "`KeQueryMaximumGroupCount` function".
fn ke_query_maximum_group_count(k: &Kernel) -> u16 {
    k.sched.topology.maximum_groups()
}

/// "`KeQueryActiveProcessorCountEx` function".
fn ke_query_active_processor_count_ex(k: &Kernel, group: u16) -> u32 {
    k.sched.topology.active_count(group)
}

/// "`KeQueryMaximumProcessorCountEx` function".
fn ke_query_maximum_processor_count_ex(k: &Kernel, group: u16) -> u32 {
    k.sched.topology.maximum_count(group)
}

/// "`KeQueryGroupAffinity` function".
fn ke_query_group_affinity(k: &Kernel, group: u16) -> u64 {
    k.sched.topology.active_mask(group)
}

/// "`KeQueryHighestNodeNumber` function".
fn ke_query_highest_node_number(k: &Kernel) -> u16 {
    k.sched.topology.highest_node()
}

/// "`KeQueryNodeActiveAffinity` function".
fn ke_query_node_active_affinity(k: &Kernel, node: u16, affinity: Ptr<GROUP_AFFINITY>, count: Ptr<u16>) {
    let (group, mask) = node_affinity(&k.sched.topology, node);
    if !affinity.is_null() {
        write_affinity(affinity, group, mask);
    }
    if !count.is_null() {
        count.write(u16::try_from(mask.count_ones()).unwrap_or(u16::MAX));
    }
}

fn node_affinity(topology: &Topology, node: u16) -> (u16, u64) {
    let node = topology.nodes().get(usize::from(node));
    node.map_or((0, 0), |node| (node.group, node.mask & topology.active_mask(node.group)))
}

/// "`KeQueryLogicalProcessorRelationship` function": the node of one processor. The page does not say whether it tells that of a processor
/// that is not active, so that either may happen.
fn ke_query_logical_processor_relationship(
    k: &Kernel,
    number: Ptr<PROCESSOR_NUMBER>,
    relationship: i32,
    information: Ptr<SYSTEM_LOGICAL_PROCESSOR_INFORMATION_EX>,
    length: Ptr<u32>,
) -> i32 {
    if relationship != RelationNumaNode || number.is_null() {
        Finding::not_modelled(format!(
            "KeQueryLogicalProcessorRelationship: relationship {relationship}, or of all processors"
        ))
        .raise();
    }
    let PROCESSOR_NUMBER { Group, Number, .. } = number.read();
    let topology = &k.sched.topology;
    let Some((index, place)) = topology.index(Group, Number).and_then(|index| Some((index, topology.place(index)?)))
    else {
        return STATUS_INVALID_PARAMETER;
    };
    if !topology.is_active(index) && k.choices.once_in(2) {
        return STATUS_INVALID_PARAMETER;
    }
    let room = length.read();
    length.write(NODE_INFORMATION);
    if information.is_null() || room < NODE_INFORMATION {
        return STATUS_INFO_LENGTH_MISMATCH;
    }
    let (group, mask) = node_affinity(topology, place.node);
    at!(information, Relationship).write(relationship);
    at!(information, Size).write(NODE_INFORMATION);
    let node = at!(information, Anonymous.NumaNode);
    at!(node, NodeNumber).write(place.node.into());
    at!(node, Reserved).write([0; 18]);
    at!(node, GroupCount).write(1);
    let mask = usize::try_from(mask).expect("the machine has 64 bits");
    at!(node, Anonymous.GroupMask).write(GROUP_AFFINITY { Mask: mask, Group: group, Reserved: [0; 3] });
    STATUS_SUCCESS
}

/// "`KeQueryNodeMaximumProcessorCount` function".
fn ke_query_node_maximum_processor_count(k: &Kernel, node: u16) -> u16 {
    let node = k.sched.topology.nodes().get(usize::from(node));
    node.map_or(0, |node| u16::try_from(node.mask.count_ones()).unwrap_or(u16::MAX))
}

/// "`KeSetSystemGroupAffinityThread` function". An affinity with numbers the group does not have changes nothing; nor does one without an
/// active processor, which is right only while one is being added.
fn ke_set_system_group_affinity_thread(k: &Kernel, affinity: Ptr<GROUP_AFFINITY>, previous: Ptr<GROUP_AFFINITY>) {
    let GROUP_AFFINITY { Mask, Group, Reserved } = affinity.read();
    let mask = Mask as u64;
    let topology = &k.sched.topology;
    let active = mask & topology.active_mask(Group);
    if active == 0 && mask != 0 && !k.hot_add.is_busy() {
        hot_add::inactive_processors("KeSetSystemGroupAffinityThread", Group, mask).raise();
    }
    let valid = Reserved == [0; 3] && mask & !topology.mask(Group) == 0 && active != 0;
    let before = valid.then(|| k.sched.set_affinity(k, Some(Affinity { group: Group, mask: active }))).flatten();
    if !previous.is_null() {
        let before = before.unwrap_or(Affinity { group: 0, mask: 0 });
        write_affinity(previous, before.group, before.mask);
    }
}

/// "`KeRevertToUserGroupAffinityThread` function". What was not set by a driver is written as zero, and means any processor.
fn ke_revert_to_user_group_affinity_thread(k: &Kernel, previous: Ptr<GROUP_AFFINITY>) {
    let GROUP_AFFINITY { Mask, Group, .. } = previous.read();
    let affinity = (Mask != 0).then_some(Affinity { group: Group, mask: Mask as u64 });
    k.sched.set_affinity(k, affinity);
}

fn write_affinity(to: Ptr<GROUP_AFFINITY>, group: u16, mask: u64) {
    at!(to, Mask).cast().write(mask);
    at!(to, Group).write(group);
    at!(to, Reserved).write([0; 3]);
}
