//! Reading sealed segments again and again, slowly, so that damage is known while there may still be help.

use super::{Engine, lock};
use crate::disk::{Disk, DiskResult};
use crate::frame::{HEADER, segment_name};
use crate::index::Index;
use crate::report::Notice;
use crate::scan::{Frames, Scanned};

impl<D: Disk, I: Index> Engine<D, I> {
    /// Checks frames for about `budget` bytes from where the last call stopped. Damage becomes a notice, and the
    /// segment is left alone from then on.
    pub(crate) fn step_scrub(&self, budget: u64) -> DiskResult<()> {
        let mut maintenance = lock(&self.maintenance);
        let (segment, position) = maintenance.scrub;
        let next = {
            let commit = lock(&self.commit);
            let rows = &commit.manifest.rows;
            let here = rows.get(&segment).filter(|row| position < row.end).map(|row| (segment, position, row.end));
            let after = || rows.range(segment.saturating_add(1)..).next().or_else(|| rows.iter().next());
            here.or_else(|| after().map(|(segment, row)| (*segment, HEADER as u32, row.end)))
        };
        let Some((segment, from, end)) = next else { return Ok(()) };
        if maintenance.damaged.contains(&segment) {
            maintenance.scrub = (segment, end);
            return Ok(());
        }
        let file = self.files.get(&self.disk, segment)?;
        let mut frames = Frames::new(&*file, self.log, segment, from, end);
        let mut position = from;
        while u64::from(position - from) < budget {
            match frames.next()? {
                Scanned::Frame(header, _) => position = header.end().unwrap_or(end),
                Scanned::End => break,
                Scanned::Bad { position, expected, found } => {
                    maintenance.damaged.insert(segment);
                    let (file, position) = (segment_name(segment), u64::from(position));
                    self.notice(Notice::Damaged { file, position, expected: expected.to_owned(), found });
                    break;
                }
            }
        }
        maintenance.scrub = (segment, position);
        Ok(())
    }
}
