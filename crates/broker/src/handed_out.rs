//! Messages on their way to a client, which are taken back if they do not get there.

use crate::Broker;
use std::fmt;

/// Messages that were handed out: taken back when this is dropped, but for those that are kept.
pub struct HandedOut {
    broker: Broker,
    group: String,
    handles: Vec<String>,
}

impl HandedOut {
    /// Those of a group that these receipt handles name.
    pub fn new(broker: &Broker, group: &str, handles: Vec<String>) -> Self {
        Self { broker: broker.clone(), group: group.to_owned(), handles }
    }

    /// All of them are the client's.
    pub fn written(mut self) {
        self.handles.clear();
    }

    /// These are not taken back, whatever happens.
    pub fn keep(&mut self, kept: &[String]) {
        self.handles.retain(|handle| !kept.contains(handle));
    }

    /// All but these are taken back now.
    pub fn all_but(&mut self, held: &[String]) {
        let (held, back) = std::mem::take(&mut self.handles).into_iter().partition(|one| held.contains(one));
        self.handles = held;
        self.take_back(back);
    }

    fn take_back(&self, handles: Vec<String>) {
        if !handles.is_empty() {
            self.broker.undo(&self.group, handles);
        }
    }
}

impl Drop for HandedOut {
    fn drop(&mut self) {
        let handles = std::mem::take(&mut self.handles);
        self.take_back(handles);
    }
}

impl fmt::Debug for HandedOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HandedOut").field("group", &self.group).field("count", &self.handles.len()).finish()
    }
}
