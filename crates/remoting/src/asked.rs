//! Requests that a client was sent and is to answer.

use crate::codec::frame::Frame;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::oneshot;

/// Requests that one client may owe answers to.
const ASKED_MAX: usize = 1_024;

/// What one connection's client was asked, by number. Empty once it is closed, and then for good.
#[derive(Debug, Default)]
pub(crate) struct Asked(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    waiting: BTreeMap<i32, oneshot::Sender<Frame>>,
    closed: bool,
}

impl Asked {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request of this number is sent; where its answer will be. `None`: the client owes too many, or is gone.
    pub fn begin(&self, opaque: i32) -> Option<Waiting<'_>> {
        let mut state = self.state();
        if state.closed || state.waiting.len() >= ASKED_MAX {
            return None;
        }
        let (tell, answer) = oneshot::channel();
        state.waiting.insert(opaque, tell);
        Some(Waiting { asked: self, opaque, answer })
    }

    /// An answer came. One that nobody waits for is passed over.
    pub fn answered(&self, frame: Frame) {
        if let Some(waiting) = self.state().waiting.remove(&frame.header.opaque) {
            // Who asked may have given up just now.
            let _ = waiting.send(frame);
        }
    }

    /// The client is gone: whoever waits is told.
    pub fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        state.waiting.clear();
    }
}

/// An answer is waited for until this is dropped.
#[derive(Debug)]
pub(crate) struct Waiting<'a> {
    asked: &'a Asked,
    opaque: i32,
    answer: oneshot::Receiver<Frame>,
}

impl Waiting<'_> {
    /// The answer. `None`: the client is gone.
    pub async fn answer(&mut self) -> Option<Frame> {
        (&mut self.answer).await.ok()
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.asked.state().waiting.remove(&self.opaque);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_so_many_answers_are_waited_for_and_none_of_a_client_that_is_gone() {
        let asked = Asked::default();
        let mut waiting: Vec<_> = (0..).map_while(|number| asked.begin(number)).collect();
        assert_eq!(waiting.len(), ASKED_MAX);
        drop(waiting.remove(0));
        assert!(asked.begin(0).is_some(), "a place is free again");
        asked.close();
        for answer in &mut waiting {
            assert!(answer.answer().await.is_none());
        }
        assert!(asked.begin(1).is_none());
    }
}
