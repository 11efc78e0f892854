//! Gives devices what they ask for.

use std::cell::Cell;

use super::{
    arbiter::{self, Policy, Wish},
    devnode::Devnode,
    resources::{Assigned, AssignedInterrupt, InterruptWanted, Requirement, Requirements, Wanted, by_alternatives},
    spec::{DeviceKind, Messages},
};
use crate::{
    finding::Finding,
    irql::{DIRQL_MAX, DIRQL_MIN},
    kernel::Kernel,
    sched::VERIFIER,
};

/// The first vector that devices get.
const FIRST_VECTOR: u32 = 0x51;
/// The last one: a message has 16 bits for it.
const LAST_VECTOR: u32 = 0xFFFF;
/// Levels of device interrupts: a few below the highest and above the lowest, which are the system's.
const LEVELS: (u64, u64) = (DIRQL_MIN.0 as u64 + 2, DIRQL_MAX.0 as u64 - 1);

/// `ALL_PROCESSOR_GROUPS`: the driver knows of groups, and takes any one.
const ALL_PROCESSOR_GROUPS: u16 = 0xFFFF;

/// What has been given away.
#[derive(Debug)]
pub struct Arbiter {
    next_vector: Cell<u32>,
}

impl Default for Arbiter {
    fn default() -> Self {
        Self { next_vector: Cell::new(FIRST_VECTOR) }
    }
}

/// Gives a device the first list of its requirements that can be satisfied; none where no list can.
pub fn assign(k: &Kernel, devnode: &Devnode, requirements: &Requirements) -> Option<Vec<Assigned>> {
    if requirements.lists.is_empty() {
        return Some(Vec::new());
    }
    requirements.lists.iter().find_map(|list| assign_list(k, devnode, list))
}

fn assign_list(k: &Kernel, devnode: &Devnode, list: &[Requirement]) -> Option<Vec<Assigned>> {
    let mut assigned = Vec::new();
    for alternatives in by_alternatives(list) {
        assigned.push(alternatives.into_iter().find_map(|wanted| assign_one(k, devnode, wanted))?);
    }
    Some(assigned)
}

fn assign_one(k: &Kernel, devnode: &Devnode, wanted: Wanted) -> Option<Assigned> {
    match wanted {
        Wanted::Memory { length, alignment, lowest, highest } => {
            let start = free_memory(k, devnode, (length, alignment), (lowest, highest))?;
            Some(Assigned::Memory { start, length })
        }
        Wanted::Interrupt(wanted) => interrupt(k, devnode, wanted).map(Assigned::Interrupt),
        Wanted::Other(kind) => Finding::not_modelled(format!("a requirement for a resource of type {kind}")).raise(),
    }
}

/// How many places for device memory there are for few devices; for many, there are twice as many as devices.
const PLACES: usize = 64;

/// A free place for device memory. It is not the same one every time: a rebalance may move a device.
fn free_memory(
    k: &Kernel,
    devnode: &Devnode,
    (length, alignment): (u32, u32),
    (lowest, highest): (u64, u64),
) -> Option<u64> {
    let (length, alignment) = (u64::from(length.max(1)), u64::from(alignment.max(1)));
    let last = (highest + 1).checked_sub(length)? / alignment;
    let first = lowest.div_ceil(alignment);
    let taken = k.pnp.memory_of_others(devnode);
    let places = last.checked_sub(first)?.saturating_add(1).min(PLACES.max(2 * taken.len()) as u64);
    let offset = k.choices.between(0, places - 1);
    (0..places)
        .map(|place| (first + (place + offset) % places) * alignment)
        .find(|&start| taken.iter().all(|&(other, bytes)| start + length <= other || other + bytes <= start))
}

fn interrupt(k: &Kernel, devnode: &Devnode, wanted: InterruptWanted) -> Option<AssignedInterrupt> {
    if wanted.message && !messages_left(k, devnode) {
        return None;
    }
    if wanted.message && wanted.messages() != 1 {
        Finding::not_modelled(format!("{} messages for a function that can send one", wanted.messages())).raise();
    }
    let active: Vec<_> = k.sched.active().map(|processor| processor.place).collect();
    let (group, affinity) = arbiter::affinity(wish_of(devnode, wanted), &active, &k.choices)?;
    let vector = free_vector(k);
    let irql = u8::try_from(k.choices.between(LEVELS.0, LEVELS.1)).unwrap_or(DIRQL_MIN.0);
    let line = if wanted.message { 0 } else { wanted.lowest };
    Some(AssignedInterrupt { message: wanted.message, line, vector, irql, group, affinity })
}

/// The next vector that no device has, round and round.
fn free_vector(k: &Kernel) -> u32 {
    let next = &k.pnp.arbiter.next_vector;
    loop {
        let vector = next.get();
        next.set(if vector == LAST_VECTOR { FIRST_VECTOR } else { vector + 1 });
        if !k.pnp.has_vector(vector) {
            return vector;
        }
    }
}

fn messages_left(k: &Kernel, devnode: &Devnode) -> bool {
    match &devnode.spec.kind {
        DeviceKind::Edu { messages: Messages::Always, .. } => true,
        DeviceKind::Edu { messages: Messages::Scarce, .. } => !k.choices.once_in(2),
        _ => false,
    }
}

fn wish_of(devnode: &Devnode, wanted: InterruptWanted) -> Wish {
    let policy = Policy::from_number(wanted.policy).unwrap_or_else(|| {
        let sentence = format!("interrupt affinity policy {} is reserved for the system or unknown", wanted.policy);
        Finding::bug_check(VERIFIER, [0; 4], sentence).raise()
    });
    let any_group = wanted.group == ALL_PROCESSOR_GROUPS;
    Wish { policy, group: (!any_group).then_some(wanted.group), targeted: wanted.targeted, node: devnode.spec.node }
}
