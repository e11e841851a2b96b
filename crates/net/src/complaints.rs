//! Log lines about peers: one at a time, the rest counted.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Complaints are logged at most this often.
pub const COMPLAINT_EVERY: Duration = Duration::from_secs(10);

/// Lets one line through per [`COMPLAINT_EVERY`] and counts the rest.
#[derive(Debug, Default)]
pub struct Complaints(Mutex<(Option<Instant>, u64)>);

impl Complaints {
    /// Calls `say` with the number of complaints that were left out since the last one, if it is time.
    pub fn say(&self, say: impl FnOnce(u64)) {
        let mut guard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (last, left_out) = &mut *guard;
        if last.is_some_and(|last| last.elapsed() < COMPLAINT_EVERY) {
            *left_out += 1;
            return;
        }
        say(std::mem::take(left_out));
        *last = Some(Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn complaints_are_counted_while_they_are_not_said() {
        let complaints = Complaints::default();
        let mut said = Vec::new();
        complaints.say(|more| said.push(more));
        complaints.say(|more| said.push(more));
        complaints.say(|more| said.push(more));
        assert_eq!(said, [0]);
        assert_eq!(complaints.0.lock().unwrap().1, 2);
    }
}
