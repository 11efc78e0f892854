//! A set of processors.

/// Indices of processors: constant time to add, take out and pick, in an order that depends on nothing but what was done before.
#[derive(Debug)]
pub(super) struct ProcessorSet {
    members: Vec<u32>,
    /// Position in `members` by processor index; [`ABSENT`] where it is not in the set.
    position: Vec<u32>,
}

const ABSENT: u32 = u32::MAX;

impl ProcessorSet {
    pub(super) fn new(maximum: usize) -> Self {
        Self { members: Vec::new(), position: vec![ABSENT; maximum] }
    }

    pub(super) const fn len(&self) -> usize {
        self.members.len()
    }

    pub(super) fn contains(&self, processor: u32) -> bool {
        self.position[processor as usize] != ABSENT
    }

    /// The member at `position` below [`ProcessorSet::len`].
    pub(super) fn get(&self, position: usize) -> u32 {
        self.members[position]
    }

    /// The `step`-th member after a processor, round and round, and once at most; after the last where that is no member.
    pub(super) fn after(&self, processor: u32, step: usize) -> u32 {
        let position = self.position[processor as usize];
        let from = if position == ABSENT { self.members.len() - 1 } else { position as usize };
        let there = from + step;
        self.members[there.checked_sub(self.members.len()).unwrap_or(there)]
    }

    /// Adds a processor; false if it was in the set.
    pub(super) fn insert(&mut self, processor: u32) -> bool {
        if self.contains(processor) {
            return false;
        }
        self.position[processor as usize] =
            u32::try_from(self.members.len()).expect("there are at most 2,048 processors");
        self.members.push(processor);
        true
    }

    pub(super) fn remove(&mut self, processor: u32) {
        let position = std::mem::replace(&mut self.position[processor as usize], ABSENT);
        if position == ABSENT {
            return;
        }
        self.members.swap_remove(position as usize);
        if let Some(&moved) = self.members.get(position as usize) {
            self.position[moved as usize] = position;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_stay_findable_when_others_leave() {
        let mut set = ProcessorSet::new(8);
        for processor in [5, 1, 7, 3] {
            set.insert(processor);
        }
        set.insert(7);
        set.remove(5);
        set.remove(5);
        set.remove(7);
        let mut left: Vec<u32> = (0..set.len()).map(|position| set.get(position)).collect();
        left.sort_unstable();
        assert_eq!(left, [1, 3]);
        assert!(set.contains(1) && set.contains(3) && !set.contains(5) && !set.contains(7));
    }
}
