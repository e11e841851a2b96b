//! Replies on their way from the shard's thread to the runtimes that wait for them.
//!
//! Waking a task of another thread costs a system call, and a batch answers many at once. So each thread that asks has a
//! mailbox: the shard puts all of a turn's replies in and rings once; a task there hands them on without leaving its thread.

use crate::runtime::{ShardHandle, Token};
use martlet_shard::Output;
use std::cell::{Cell, RefCell};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::Notify;

/// Replies for one thread.
#[derive(Debug, Default)]
pub(crate) struct Mailbox {
    replies: Mutex<Vec<(Token, Output)>>,
    bell: Notify,
    /// The runtime that emptied it is gone.
    closed: AtomicBool,
}

thread_local! {
    /// This thread's mailboxes, one per shard it asks (by the address of the shard's inbox).
    static MAILBOXES: RefCell<Vec<(usize, Arc<Mailbox>)>> = const { RefCell::new(Vec::new()) };
    /// This thread waits for a reply without running anything else, so nothing would empty a mailbox.
    static BLOCKED: Cell<bool> = const { Cell::new(false) };
}

/// Runs something on this thread that blocks it until replies come: they are sent straight to whoever waits.
pub(crate) fn while_blocked<T>(run: impl FnOnce() -> T) -> T {
    let before = BLOCKED.replace(true);
    let result = run();
    BLOCKED.set(before);
    result
}

impl Mailbox {
    /// The mailbox of this thread; `None` outside of a runtime, and on a thread that blocks.
    pub fn here(shard: &ShardHandle) -> Option<Arc<Self>> {
        if BLOCKED.get() {
            return None;
        }
        let key = shard.address();
        MAILBOXES.with_borrow_mut(|mailboxes| {
            if let Some((_, mailbox)) = mailboxes.iter().find(|(of, mailbox)| *of == key && mailbox.is_open()) {
                return Some(mailbox.clone());
            }
            let runtime = tokio::runtime::Handle::try_current().ok()?;
            let mailbox = Arc::<Self>::default();
            runtime.spawn(empty(mailbox.clone(), shard.clone()));
            mailboxes.retain(|(_, mailbox)| mailbox.is_open());
            mailboxes.push((key, mailbox.clone()));
            Some(mailbox)
        })
    }

    fn is_open(&self) -> bool {
        !self.closed.load(Ordering::Acquire)
    }

    /// Puts a reply in; true if the mailbox was empty, and so is to be rung for. Gives it back if nobody empties it.
    pub fn put(&self, token: Token, output: Output) -> Result<bool, (Token, Output)> {
        let mut replies = self.replies.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.is_open() {
            return Err((token, output));
        }
        replies.push((token, output));
        Ok(replies.len() == 1)
    }

    /// Has it emptied.
    pub fn ring(&self) {
        self.bell.notify_one();
    }

    fn take(&self) -> Vec<(Token, Output)> {
        std::mem::take(&mut *self.replies.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Closes the mailbox when its runtime goes away, and lets go of what nobody will hand on any more.
struct Emptier(Arc<Mailbox>);

impl Drop for Emptier {
    fn drop(&mut self) {
        self.0.closed.store(true, Ordering::Release);
        drop(self.0.take());
    }
}

async fn empty(mailbox: Arc<Mailbox>, shard: ShardHandle) {
    let emptier = Emptier(mailbox);
    loop {
        emptier.0.bell.notified().await;
        for (token, output) in emptier.0.take() {
            shard.release(token, output);
        }
    }
}
