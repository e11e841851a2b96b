//! Which poll of an ordered group got what, by the attempt id its client gave it: a client that did not see the answer
//! repeats the poll with the same id. In memory only; after a restart the messages lapse instead.

use crate::command::ClientNumber;
use martlet_model::handle::DeliveryNumber;
use martlet_model::{GroupId, QueueId, QueueOffset, TopicId};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// Most polls remembered; the oldest are forgotten first.
const ATTEMPTS_MAX: usize = 8_192;

/// A poll: its group, client, topic and attempt id.
pub type AttemptKey = (GroupId, ClientNumber, TopicId, Arc<str>);

/// One message it got.
pub type Got = (QueueId, QueueOffset, DeliveryNumber);

/// The polls remembered.
#[derive(Debug, Default)]
pub struct Attempts {
    got: BTreeMap<AttemptKey, Vec<Got>>,
    order: VecDeque<AttemptKey>,
}

impl Attempts {
    /// What this poll got last, which is forgotten by asking.
    pub fn take(&mut self, key: &AttemptKey) -> Option<Vec<Got>> {
        self.got.remove(key)
    }

    /// This poll got these.
    pub fn put(&mut self, key: AttemptKey, got: Vec<Got>) {
        if self.got.insert(key.clone(), got).is_none() {
            self.order.push_back(key);
        }
        // Keys that were taken are still in the order: at most as many again.
        while self.got.len() > ATTEMPTS_MAX || self.order.len() > 2 * ATTEMPTS_MAX {
            let Some(oldest) = self.order.pop_front() else { return };
            self.got.remove(&oldest);
        }
    }

    /// A client is gone.
    pub fn forget_client(&mut self, client: ClientNumber) {
        self.got.retain(|key, _| key.1 != client);
        self.order.retain(|key| key.1 != client);
    }

    /// A group is gone.
    pub fn forget_group(&mut self, group: GroupId) {
        self.got.retain(|key, _| key.0 != group);
        self.order.retain(|key| key.0 != group);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_so_many_polls_are_remembered_and_the_oldest_go_first() {
        let key = |n: usize| (GroupId(1), ClientNumber(2), TopicId(3), Arc::from(n.to_string()));
        let got = |n: usize| vec![(QueueId(0), QueueOffset(n as u64), DeliveryNumber(9))];
        let mut attempts = Attempts::default();
        for n in 0..3 * ATTEMPTS_MAX {
            attempts.put(key(n), got(n));
            if n % 2 == 0 {
                let taken = attempts.take(&key(n)).unwrap();
                attempts.put(key(n), taken);
            }
        }
        assert!(attempts.got.len() <= ATTEMPTS_MAX && attempts.order.len() <= 2 * ATTEMPTS_MAX);
        assert_eq!(attempts.take(&key(0)), None);
        assert_eq!(attempts.take(&key(3 * ATTEMPTS_MAX - 1)), Some(got(3 * ATTEMPTS_MAX - 1)));
        attempts.forget_client(ClientNumber(2));
        assert!(attempts.got.is_empty() && attempts.order.is_empty());
    }
}
