//! Numbers that name things, each its own type so that two kinds cannot be mixed.

use std::fmt;

/// Milliseconds since the Unix epoch. Below the broker crate time is always a parameter of this type.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnixMillis(pub i64);

impl UnixMillis {
    /// This time plus `millis` (saturating).
    pub fn plus(self, millis: i64) -> Self {
        Self(self.0.saturating_add(millis))
    }

    /// Milliseconds from `earlier` to this time; negative if `earlier` is later.
    pub fn since(self, earlier: Self) -> i64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// Place of a message in one queue, counted from 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QueueOffset(pub u64);

impl QueueOffset {
    /// The place after this one.
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for QueueOffset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A queue of one shard, numbered in order of creation and never used again after deletion.
/// Clients see `(topic, queue index)`; the shard maps that pair to this number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QueueId(pub u64);

/// A topic's generation: a topic that is deleted and created again under the same name has another id.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct TopicId(pub u32);

const DEAD_LETTERS: u32 = 1 << 31;
const RETRIES: u32 = 1 << 31 | 1 << 30;
const OF_GROUP: u32 = RETRIES;

impl TopicId {
    /// The topic `%DLQ%group`. It exists in every shard without being created, so it has no catalog entry: its id is the
    /// group's with the highest bit set. The catalog gives out ids below 2^30.
    pub fn dead_letters_of(group: GroupId) -> Self {
        Self(DEAD_LETTERS | group.0)
    }

    /// The group whose dead letters this topic holds.
    pub fn dead_letter_group(self) -> Option<GroupId> {
        (self.0 & OF_GROUP == DEAD_LETTERS).then_some(GroupId(self.0 & !OF_GROUP))
    }

    /// The topic `%RETRY%group`, which queue-based members pull retries from. It needs no catalog entry either: its id is
    /// the group's with the two highest bits set.
    pub fn retries_of(group: GroupId) -> Self {
        Self(RETRIES | group.0)
    }

    /// The group whose retries this topic holds.
    pub fn retry_group(self) -> Option<GroupId> {
        (self.0 & OF_GROUP == RETRIES).then_some(GroupId(self.0 & !OF_GROUP))
    }

    /// The group that this topic exists with, if it is one of dead letters or retries.
    pub fn group_it_belongs_to(self) -> Option<GroupId> {
        self.dead_letter_group().or_else(|| self.retry_group())
    }
}

/// A consumer group's generation, like [`TopicId`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct GroupId(pub u32);

/// The 64-bit "physical offset" that remoting clients echo and that offset message ids contain. Computed from queue
/// and offset, so it is the same in every store engine and never a position in a file.
///
/// Layout, most significant bit first; the sign bit is always 0:
///
/// | form | bits 62 | next | rest |
/// | --- | --- | --- | --- |
/// | ordinary queue (below 2^22) | 0 | 22 bits queue | 40 bits offset |
/// | any other queue (below 2^34) | 1 | 34 bits queue | 28 bits offset |
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PhysicalOffset(pub i64);

const WIDE: u64 = 1 << 62;

impl PhysicalOffset {
    /// The physical offset of a place, or `None` if queue number or offset is past what 63 bits can hold.
    pub fn of(queue: QueueId, offset: QueueOffset) -> Option<Self> {
        let bits = if queue.0 < 1 << 22 && offset.0 < 1 << 40 {
            queue.0 << 40 | offset.0
        } else if queue.0 < 1 << 34 && offset.0 < 1 << 28 {
            WIDE | queue.0 << 28 | offset.0
        } else {
            return None;
        };
        Some(Self(bits as i64))
    }

    /// The place a physical offset names, or `None` for a negative number.
    pub fn place(self) -> Option<(QueueId, QueueOffset)> {
        let bits = u64::try_from(self.0).ok()?;
        Some(if bits & WIDE == 0 {
            (QueueId(bits >> 40), QueueOffset(bits & ((1 << 40) - 1)))
        } else {
            (QueueId((bits & !WIDE) >> 28), QueueOffset(bits & ((1 << 28) - 1)))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn physical_offsets_round_trip_and_never_turn_negative() {
        for (queue, offset) in
            [(0, 0), (7, 1 << 39), ((1 << 22) - 1, (1 << 40) - 1), (1 << 22, 5), ((1 << 34) - 1, (1 << 28) - 1)]
        {
            let place = (QueueId(queue), QueueOffset(offset));
            let physical = PhysicalOffset::of(place.0, place.1).unwrap();
            assert!(physical.0 >= 0);
            assert_eq!(physical.place(), Some(place));
        }
        assert_eq!(PhysicalOffset::of(QueueId(1 << 34), QueueOffset(0)), None);
        assert_eq!(PhysicalOffset::of(QueueId(1), QueueOffset(1 << 40)), None);
        assert_eq!(PhysicalOffset(-1).place(), None);
    }

    #[test]
    fn topics_of_a_group_are_told_apart() {
        let group = GroupId(7);
        let (dead, retries) = (TopicId::dead_letters_of(group), TopicId::retries_of(group));
        assert_eq!((dead.dead_letter_group(), dead.retry_group()), (Some(group), None));
        assert_eq!((retries.dead_letter_group(), retries.retry_group()), (None, Some(group)));
        assert_eq!(TopicId(7).group_it_belongs_to(), None);
    }
}
