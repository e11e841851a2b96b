//! Handles that producers carry: a recall handle stops a delayed message, a transaction id ends a transaction. Both name
//! the place where the message waits, and both are signed.
//!
//! Text: URL-safe base64 without padding, 60 characters, of these 45 bytes (big endian):
//!
//! | bytes | field |
//! | --- | --- |
//! | 0 | kind: 2 recall, 3 transaction |
//! | 1–4 | shard |
//! | 5–8 | epoch in which it was given out |
//! | 9–12 | topic |
//! | 13–20 | time: delivery timestamp, or when the transaction began |
//! | 21–28 | queue: the bucket the message waits in |
//! | 29–36 | queue offset |
//! | 37–44 | MAC: SipHash-2-4 of bytes 0–36 under the shard's key |

use crate::handle::{HandleKey, mac};
use crate::ids::{QueueId, QueueOffset, TopicId, UnixMillis};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// What a handle is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProducerHandleKind {
    /// Stopping a delayed message.
    Recall = 2,
    /// Ending a transaction.
    Transaction = 3,
}

impl ProducerHandleKind {
    /// Its name in texts.
    pub fn name(self) -> &'static str {
        match self {
            Self::Recall => "recall handle",
            Self::Transaction => "transaction id",
        }
    }
}

/// What a handle says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProducerHandle {
    /// What it is for.
    pub kind: ProducerHandleKind,
    /// The shard that gave it out.
    pub shard: u32,
    /// The epoch it was given out in.
    pub epoch: u32,
    /// The topic of the message.
    pub topic: TopicId,
    /// Delivery timestamp, or when the transaction began.
    pub time: UnixMillis,
    /// The bucket the message waits in.
    pub queue: QueueId,
    /// Its place there.
    pub offset: QueueOffset,
}

/// Why a text is not a handle of this kind and shard.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProducerHandleError {
    /// Not the form of one.
    #[error("{kind} of {length} characters is not one that this broker gives out")]
    Malformed {
        /// `recall handle` or `transaction id`.
        kind: &'static str,
        /// Length of the text.
        length: usize,
    },
    /// The signature does not fit: changed on the way, invented, or given out by another broker.
    #[error("{kind} is forged or was given out by another broker")]
    Forged {
        /// `recall handle` or `transaction id`.
        kind: &'static str,
    },
}

const BYTES: usize = 45;
const SIGNED: usize = 37;

impl ProducerHandle {
    /// The text that clients carry.
    pub fn encode(&self, key: &HandleKey) -> String {
        let mut bytes = [0; BYTES];
        bytes[0] = self.kind as u8;
        bytes[1..5].copy_from_slice(&self.shard.to_be_bytes());
        bytes[5..9].copy_from_slice(&self.epoch.to_be_bytes());
        bytes[9..13].copy_from_slice(&self.topic.0.to_be_bytes());
        bytes[13..21].copy_from_slice(&self.time.0.to_be_bytes());
        bytes[21..29].copy_from_slice(&self.queue.0.to_be_bytes());
        bytes[29..37].copy_from_slice(&self.offset.0.to_be_bytes());
        let mac = mac(key, &bytes[..SIGNED]);
        bytes[SIGNED..].copy_from_slice(&mac.to_be_bytes());
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// Reads a text back; refuses what this key did not sign, and handles of the other kind.
    pub fn decode(text: &str, kind: ProducerHandleKind, key: &HandleKey) -> Result<Self, ProducerHandleError> {
        let malformed = || ProducerHandleError::Malformed { kind: kind.name(), length: text.len() };
        let mut bytes = [0; BYTES];
        if URL_SAFE_NO_PAD.decode_slice(text, &mut bytes).ok() != Some(BYTES) || bytes[0] != kind as u8 {
            return Err(malformed());
        }
        let u32_at = |at: usize| bytes[at..at + 4].try_into().map(u32::from_be_bytes).map_err(|_| malformed());
        let u64_at = |at: usize| bytes[at..at + 8].try_into().map(u64::from_be_bytes).map_err(|_| malformed());
        if u64_at(SIGNED)? != mac(key, &bytes[..SIGNED]) {
            return Err(ProducerHandleError::Forged { kind: kind.name() });
        }
        Ok(Self {
            kind,
            shard: u32_at(1)?,
            epoch: u32_at(5)?,
            topic: TopicId(u32_at(9)?),
            time: UnixMillis(u64_at(13)? as i64),
            queue: QueueId(u64_at(21)?),
            offset: QueueOffset(u64_at(29)?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handle_round_trips_any_changed_character_is_noticed_and_kinds_are_not_mixed_up() {
        let key = HandleKey(*b"0123456789abcdef");
        let handle = ProducerHandle {
            kind: ProducerHandleKind::Recall,
            shard: 9,
            epoch: 3,
            topic: TopicId(4),
            time: UnixMillis(1_800_000_000_000),
            queue: QueueId(5),
            offset: QueueOffset(1 << 40),
        };
        let text = handle.encode(&key);
        assert_eq!(text.len(), 60);
        assert_eq!(ProducerHandle::decode(&text, ProducerHandleKind::Recall, &key), Ok(handle));
        assert!(matches!(
            ProducerHandle::decode(&text, ProducerHandleKind::Transaction, &key),
            Err(ProducerHandleError::Malformed { kind: "transaction id", length: 60 })
        ));
        let other = HandleKey([7; 16]);
        let forged = ProducerHandle::decode(&text, ProducerHandleKind::Recall, &other);
        assert_eq!(forged, Err(ProducerHandleError::Forged { kind: "recall handle" }));
        for at in 0..text.len() {
            let mut changed = text.clone().into_bytes();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).unwrap();
            let read = ProducerHandle::decode(&changed, ProducerHandleKind::Recall, &key);
            assert!(read.is_err(), "character {at}");
        }
        assert!(ProducerHandle::decode("", ProducerHandleKind::Recall, &key).is_err());
    }
}
