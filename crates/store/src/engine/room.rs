//! Room on the disk: new messages are refused early, acks and reclaiming go on from a reserve.
//!
//! Two files of one segment's length each are kept allocated: one for the next segment of commits, one for reclaiming.
//! They are given up, each for its purpose, when the system says that the disk is full, and made again when there is
//! room for them beside a further segment.

use super::{Engine, lock};
use crate::disk::{Disk, DiskErrorKind, DiskFile, DiskResult};
use crate::frame::segment_name;
use crate::index::Index;
use crate::{Room, Shortage};

pub(crate) const RESERVE_FOR_COMMITS: &str = "reserve-commits";
pub(crate) const RESERVE_FOR_RECLAIM: &str = "reserve-reclaim";

impl<D: Disk, I: Index> Engine<D, I> {
    pub(crate) fn room(&self) -> Room {
        lock(&self.shortage).map_or(Room::Open, Room::OnlyProgress)
    }

    /// Looks at the free space, and makes the reserve again if it was used and there is room.
    pub(crate) fn check_space(&self) {
        let (Ok(space), Ok(files)) = (self.disk.space(), self.disk.list()) else { return };
        let segment = u64::from(self.settings.segment_bytes);
        let mut missing: Vec<&str> = [RESERVE_FOR_COMMITS, RESERVE_FOR_RECLAIM]
            .into_iter()
            .filter(|reserve| !files.iter().any(|(name, length)| name == reserve && *length >= segment))
            .collect();
        let mut free = space.free;
        while let Some(reserve) = missing.last() {
            // Beside the reserve there must be room for the segment after the open one.
            if free < segment * 2 || self.make_reserve(reserve).is_err() {
                break;
            }
            free -= segment;
            missing.pop();
        }
        let needed = segment * (1 + missing.len() as u64);
        let short = free < needed || !missing.is_empty();
        *lock(&self.shortage) = short.then_some(Shortage::DiskFull { free, needed });
    }

    fn make_reserve(&self, name: &str) -> DiskResult<()> {
        let file = match self.disk.create(name) {
            Err(error) if error.kind == DiskErrorKind::Exists => self.disk.open(name)?,
            other => other?,
        };
        file.preallocate(self.settings.segment_bytes.into())
    }

    /// Does something that takes space; if the disk is full, once more after giving up a reserve.
    pub(super) fn with_reserve<T>(&self, reserve: &str, work: impl Fn() -> DiskResult<T>) -> DiskResult<T> {
        match work() {
            Err(error) if error.kind == DiskErrorKind::Full => {
                let needed = u64::from(self.settings.segment_bytes) * 2;
                *lock(&self.shortage) = Some(Shortage::DiskFull { free: 0, needed });
                self.disk.remove(reserve).map_err(|_| error)?;
                work()
            }
            other => other,
        }
    }

    /// A new segment's file with all its space, from the reserve if need be; at the very end with what space there is,
    /// which each write then finds or not.
    pub(crate) fn create_segment(&self, segment: u32) -> DiskResult<D::File> {
        let file = self.with_reserve(RESERVE_FOR_COMMITS, || self.disk.create(&segment_name(segment)))?;
        let length = u64::from(self.settings.segment_bytes);
        match self.with_reserve(RESERVE_FOR_COMMITS, || file.preallocate(length)) {
            Err(error) if error.kind == DiskErrorKind::Full => file.truncate(0)?,
            other => other?,
        }
        Ok(file)
    }
}
