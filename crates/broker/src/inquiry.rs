//! Questions to one client that only its connection can put, whichever protocol asks.

use crate::{Broker, FoundMessage};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, PoisonError};

/// What a client can be asked.
#[derive(Clone, Debug)]
pub enum Inquiry {
    /// What its threads are doing.
    StackTrace,
    /// To consume this message, past all queues: nobody's progress moves.
    Consume(Arc<FoundMessage>),
}

/// What it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InquiryReply {
    /// What its threads are doing, in its own words.
    StackTrace(String),
    /// That it has consumed the message, or why not.
    Consumed(Result<(), String>),
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoReply {
    /// It went while it was asked, or takes no commands.
    #[error("client {client} has gone")]
    Gone {
        /// Its id.
        client: String,
    },
    /// It did not answer in time.
    #[error("client {client} did not answer within {limit_secs} s")]
    Late {
        /// Its id.
        client: String,
        /// How long it may take.
        limit_secs: u64,
    },
    /// It says that it cannot, or the message cannot be shown to it.
    #[error("client {client} cannot be asked: {reason}")]
    Impossible {
        /// Its id.
        client: String,
        /// In the words of whoever found out.
        reason: String,
    },
}

/// An answer on its way.
pub type PendingReply = Pin<Box<dyn Future<Output = Result<InquiryReply, NoReply>> + Send>>;

/// Whoever reaches clients. `None`: no such client can be asked there.
pub(crate) type InquiryListener = Arc<dyn Fn(&str, Inquiry) -> Option<PendingReply> + Send + Sync>;

impl Broker {
    /// Whoever reaches clients puts questions to them. Replaces a listener from before.
    pub fn on_inquiry(&self, listener: impl Fn(&str, Inquiry) -> Option<PendingReply> + Send + Sync + 'static) {
        *self.inner.inquiries.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(listener));
    }

    /// Asks a client. `None`: it is not connected where it could be asked.
    pub fn inquire(&self, client_id: &str, inquiry: Inquiry) -> Option<PendingReply> {
        let listener = self.inner.inquiries.lock().unwrap_or_else(PoisonError::into_inner).clone();
        listener.and_then(|listener| listener(client_id, inquiry))
    }
}
