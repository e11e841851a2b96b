//! Open segment files for readers, at most so many at a time.

use super::lock;
use crate::disk::{Disk, DiskResult};
use crate::frame::segment_name;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

const OPEN_MAX: usize = 64;

/// The files used last, the latest at the back.
pub(crate) struct Files<F> {
    open: Mutex<VecDeque<(u32, Arc<F>)>>,
}

impl<F> Files<F> {
    pub(crate) fn new() -> Self {
        Self { open: Mutex::new(VecDeque::new()) }
    }

    pub(crate) fn insert(&self, segment: u32, file: Arc<F>) {
        let mut open = lock(&self.open);
        open.retain(|(other, _)| *other != segment);
        open.push_back((segment, file));
        if open.len() > OPEN_MAX {
            open.pop_front();
        }
    }

    pub(crate) fn remove(&self, segment: u32) {
        lock(&self.open).retain(|(other, _)| *other != segment);
    }

    pub(crate) fn get<D: Disk<File = F>>(&self, disk: &D, segment: u32) -> DiskResult<Arc<F>> {
        {
            let mut open = lock(&self.open);
            if let Some(at) = open.iter().rposition(|(other, _)| *other == segment)
                && let Some(entry) = open.remove(at)
            {
                let file = entry.1.clone();
                open.push_back(entry);
                return Ok(file);
            }
        }
        let file = Arc::new(disk.open(&segment_name(segment))?);
        self.insert(segment, file.clone());
        Ok(file)
    }
}
