//! Zeros written behind the end of the log.
//!
//! To a file system space that is only allocated is unwritten: a sync of what is written there for the first time also has to note
//! that it is written now, in the file's inode or by a commit of the journal, which takes it longer than the data itself. So a
//! small batch takes zeros along, and those after it overwrite blocks that were written before, in pages that are in memory. To
//! readers nothing changes: behind its last frame a segment has zeros either way.

use crate::Durability;
use crate::disk::{Disk, DiskFile, DiskResult};

/// Most bytes of zeros that one write takes along.
const AHEAD_BYTES: u32 = 256 << 10;
/// A write takes zeros along if they are at least so many times what it writes itself: else they would be a good part of all that
/// is written, and there are so few syncs that it does not matter what each costs.
const TIMES_MIN: u32 = 8;
/// They end where a block of the file system does.
const BLOCK: u32 = 4 << 10;

static ZEROS: [u8; 32 << 10] = [0; 32 << 10];

/// How far the open segment was written.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Zeros {
    /// Below this position every block was written before.
    written: u32,
    /// Space that is allocated; beyond it there are none.
    room: u32,
}

impl Zeros {
    /// Of the open segment, which has its space already.
    pub(super) fn of<D: Disk>(disk: &D, durability: Durability, segment: &D::File) -> DiskResult<Self> {
        let wanted = durability == Durability::Fdatasync && disk.overwrites_in_place();
        Ok(if wanted { Self::new(segment.length()?) } else { Self::default() })
    }

    fn new(room: u64) -> Self {
        Self { written: 0, room: u32::try_from(room).unwrap_or(u32::MAX) }
    }

    /// How many zeros go behind a write from `position` to `end`.
    pub(super) fn behind(self, position: u32, end: u32) -> u32 {
        if end <= self.written || (end - position).saturating_mul(TIMES_MIN) > AHEAD_BYTES {
            return 0;
        }
        let until = end.saturating_add(AHEAD_BYTES) / BLOCK * BLOCK;
        until.min(self.room).saturating_sub(end)
    }

    /// Written as far as that.
    pub(super) fn written(&mut self, until: u32) {
        self.written = self.written.max(until);
    }
}

/// So many zeros, as parts of a write.
pub(super) fn parts<'a>(count: u32) -> impl Iterator<Item = &'a [u8]> {
    let (whole, rest) = (count as usize / ZEROS.len(), count as usize % ZEROS.len());
    std::iter::repeat_n(&ZEROS[..], whole).chain((rest > 0).then_some(&ZEROS[..rest]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_writes_take_zeros_along_as_far_as_there_is_room_and_large_ones_none() {
        let mut zeros = Zeros::new(600 << 10);
        assert_eq!(zeros.behind(64, 1_064), (256 << 10) - 1_064);
        zeros.written(256 << 10);
        assert_eq!(zeros.behind(1_064, 256 << 10), 0, "it fits into what was written");
        let end = (256 << 10) + 1;
        assert_eq!(zeros.behind(250 << 10, end), (512 << 10) - end);
        assert_eq!(zeros.behind(100 << 10, 300 << 10), 0, "large");
        assert_eq!(zeros.behind(500 << 10, 520 << 10), (600 - 520) << 10, "as far as there is room");
        assert_eq!(Zeros::new(0).behind(64, 100), 0, "nothing is allocated");
        for count in [0, 1, 32 << 10, (32 << 10) + 1, 256 << 10] {
            assert_eq!(parts(count).map(<[u8]>::len).sum::<usize>(), count as usize);
        }
    }
}
