//! Another process takes the store over from one that lives, and does not know it yet.

use super::*;

/// Questions that the process before is asked once it has been overtaken.
const ASKED: u64 = 12;

impl<G: Ground> Run<G> {
    /// Somebody else opens the store. The process before may be stopped in the middle of something meanwhile; then it goes on and is
    /// asked as ever, until it has learned what happened.
    pub(super) fn overtake(&mut self) -> Verdict {
        if self.random.one_in(2) {
            self.ground.stop();
        }
        let (store, report) = self.open_store()?;
        self.say(|| "overtaken".into());
        self.overtaken = Some(self.next_token);
        // What it reads may be gone, or say that it is closed.
        self.reads_fail = true;
        self.ground.go_on();
        for _ in 0..self.random.below(ASKED) {
            match self.random.below(3) {
                0 => self.produce(),
                1 => self.end_some(),
                _ => {
                    let client = self.random.below(self.clients.len() as u64) as usize;
                    self.act(client);
                }
            }
            self.turn(false)?;
            if let Some(shard) = &self.shard {
                self.ground.step(shard.store(), &mut self.random);
            }
        }
        let knows = self.shard.as_ref().is_none_or(|shard| self.ground.learns_of_it(shard.store()));
        if !knows {
            return Err("a process was overtaken and does not learn it".into());
        }
        self.turn(true)?;
        self.overtaken = None;
        self.report.overtaken += 1;
        self.close(End::Crash);
        self.reopen_on(store, &report)
    }

    /// A process that was overtaken takes in and hands out nothing more. What was durable before it may still tell; and if it tells
    /// more than that, the next owner misses it.
    pub(super) fn may_answer(&self, token: u64, output: &Output) -> Verdict {
        let is_new = match output {
            Output::Sent(_) | Output::Scheduled(_) | Output::Half(..) => true,
            Output::Delivered(hand_outs) => !hand_outs.is_empty(),
            _ => false,
        };
        match self.overtaken {
            Some(first) if token >= first && is_new => {
                Err(format!("a process that was overtaken answers what it was asked since: {token} {output:?}"))
            }
            _ => Ok(()),
        }
    }
}
