//! A few threads for reads that block on the disk.

use super::spawn;
use crate::OpenError;
use std::future::Future;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::oneshot;

/// Nice value: a tenth of the weight of a thread that has none.
#[cfg(target_os = "linux")]
const BEHIND: i32 = 10;

type Job = Box<dyn FnOnce() + Send>;

/// The threads end when the pool is dropped. What waits is bounded by its callers: each waits for its own answer.
pub(super) struct Pool {
    jobs: Sender<Job>,
}

impl Pool {
    /// For answers that somebody waits for.
    pub(super) fn start(threads: usize) -> Result<Self, OpenError> {
        Self::start_as("read", threads, || {})
    }

    /// One thread that gets what CPU others leave, and at least a tenth of a core that all want.
    pub(super) fn start_behind() -> Result<Self, OpenError> {
        Self::start_as("scan", 1, || {
            // Of this thread alone, on Linux; elsewhere it would be of the whole process. Refused, it is as the others.
            #[cfg(target_os = "linux")]
            let _ = rustix::process::setpriority_process(None, BEHIND);
        })
    }

    fn start_as(name: &str, threads: usize, begin: fn()) -> Result<Self, OpenError> {
        let (jobs, receiver) = channel::<Job>();
        let receiver = Arc::new(Mutex::new(receiver));
        for number in 0..threads {
            let receiver = receiver.clone();
            spawn(&format!("martlet-{name}-{number}"), move || {
                begin();
                while let Some(job) = next(&receiver) {
                    // One read that panics must not take the others' thread with it; its asker sees no answer.
                    let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(job));
                }
            })?;
        }
        Ok(Self { jobs })
    }

    /// The answer of `work`, or `None` if its thread is gone.
    pub(super) fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> impl Future<Output = Option<T>> + Send {
        let (answer, answered) = oneshot::channel();
        let job: Job = Box::new(move || {
            // Whoever asked may have gone away.
            let _ = answer.send(work());
        });
        let sent = self.jobs.send(job).is_ok();
        async move { if sent { answered.await.ok() } else { None } }
    }
}

fn next(receiver: &Mutex<Receiver<Job>>) -> Option<Job> {
    receiver.lock().unwrap_or_else(PoisonError::into_inner).recv().ok()
}
