//! Receipt handles: what a consumer shows to settle one delivery.
//!
//! Text: URL-safe base64 without padding, 60 characters, of these 45 bytes (big endian):
//!
//! | bytes | field |
//! | --- | --- |
//! | 0 | format, 1 |
//! | 1–4 | shard |
//! | 5–8 | consumer group |
//! | 9–12 | topic |
//! | 13–20 | queue |
//! | 21–28 | queue offset |
//! | 29–36 | delivery number |
//! | 37–44 | MAC: SipHash-2-4 of bytes 0–36 under the shard's key |
//!
//! The low 31 bits of the MAC are the delivery's *mark*. Where a protocol has room for numbers only, place and mark together name a
//! delivery to a shard, which knows the rest.

use crate::ids::{GroupId, QueueId, QueueOffset, TopicId};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use siphasher::sip::SipHasher24;
use std::hash::Hasher;

/// Number of one hand-out of one message. The upper 24 bits are the shard's epoch, so that a number given out before a
/// crash is never given out again; the lower 40 bits count within the epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeliveryNumber(pub u64);

impl DeliveryNumber {
    /// The first number of an epoch.
    pub fn first_of(epoch: u32) -> Self {
        Self(u64::from(epoch) << 40)
    }

    /// The epoch it was given out in.
    pub fn epoch(self) -> u32 {
        (self.0 >> 40) as u32
    }

    /// The number `n` later.
    pub fn plus(self, n: u64) -> Self {
        Self(self.0 + n)
    }
}

/// The secret a shard signs its handles with; kept in its store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HandleKey(pub [u8; 16]);

/// What a handle says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReceiptHandle {
    /// The shard that gave it out.
    pub shard: u32,
    /// The consumer group it was given to.
    pub group: GroupId,
    /// The topic of the message.
    pub topic: TopicId,
    /// The queue of the message.
    pub queue: QueueId,
    /// Its place there.
    pub offset: QueueOffset,
    /// The hand-out.
    pub delivery: DeliveryNumber,
}

/// Why a text is not a handle of this shard.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HandleError {
    /// Not the form of a handle.
    #[error("receipt handle of {length} characters is not one that this broker gives out")]
    Malformed {
        /// Length of the text.
        length: usize,
    },
    /// The signature does not fit: changed on the way, invented, or given out by another broker.
    #[error("receipt handle is forged or was given out by another broker")]
    Forged,
}

/// Largest mark of a delivery: clients read it as a signed number of 32 bits.
pub const MARK_MAX: u32 = 0x7fff_ffff;
const BYTES: usize = 45;
const SIGNED: usize = 37;

impl ReceiptHandle {
    /// The text that clients carry.
    pub fn encode(&self, key: &HandleKey) -> String {
        URL_SAFE_NO_PAD.encode(self.bytes(key))
    }

    /// The delivery's mark, 31 bits.
    pub fn mark(&self, key: &HandleKey) -> u32 {
        let bytes = self.bytes(key);
        let low = u32::from_be_bytes([bytes[41], bytes[42], bytes[43], bytes[44]]);
        low & MARK_MAX
    }

    fn bytes(&self, key: &HandleKey) -> [u8; BYTES] {
        let mut bytes = [0; BYTES];
        bytes[0] = 1;
        bytes[1..5].copy_from_slice(&self.shard.to_be_bytes());
        bytes[5..9].copy_from_slice(&self.group.0.to_be_bytes());
        bytes[9..13].copy_from_slice(&self.topic.0.to_be_bytes());
        bytes[13..21].copy_from_slice(&self.queue.0.to_be_bytes());
        bytes[21..29].copy_from_slice(&self.offset.0.to_be_bytes());
        bytes[29..37].copy_from_slice(&self.delivery.0.to_be_bytes());
        let mac = mac(key, &bytes[..SIGNED]);
        bytes[37..].copy_from_slice(&mac.to_be_bytes());
        bytes
    }

    /// Reads a text back; refuses what this key did not sign.
    pub fn decode(text: &str, key: &HandleKey) -> Result<Self, HandleError> {
        let malformed = || HandleError::Malformed { length: text.len() };
        let mut bytes = [0; BYTES];
        if URL_SAFE_NO_PAD.decode_slice(text, &mut bytes).ok() != Some(BYTES) || bytes[0] != 1 {
            return Err(malformed());
        }
        let u32_at = |at: usize| bytes[at..at + 4].try_into().map(u32::from_be_bytes).map_err(|_| malformed());
        let u64_at = |at: usize| bytes[at..at + 8].try_into().map(u64::from_be_bytes).map_err(|_| malformed());
        if u64_at(37)? != mac(key, &bytes[..SIGNED]) {
            return Err(HandleError::Forged);
        }
        Ok(Self {
            shard: u32_at(1)?,
            group: GroupId(u32_at(5)?),
            topic: TopicId(u32_at(9)?),
            queue: QueueId(u64_at(13)?),
            offset: QueueOffset(u64_at(21)?),
            delivery: DeliveryNumber(u64_at(29)?),
        })
    }
}

pub(crate) fn mac(key: &HandleKey, bytes: &[u8]) -> u64 {
    let mut hasher = SipHasher24::new_with_key(&key.0);
    hasher.write(bytes);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handle_round_trips_and_any_changed_character_is_noticed() {
        let key = HandleKey(*b"0123456789abcdef");
        let handle = ReceiptHandle {
            shard: 9,
            group: GroupId(3),
            topic: TopicId(4),
            queue: QueueId(5),
            offset: QueueOffset(1 << 40),
            delivery: DeliveryNumber::first_of(7).plus(11),
        };
        let text = handle.encode(&key);
        assert_eq!(text.len(), 60);
        assert_eq!(ReceiptHandle::decode(&text, &key), Ok(handle));
        let newer = ReceiptHandle { delivery: handle.delivery.plus(1), ..handle };
        let foreign = ReceiptHandle { group: GroupId(4), ..handle };
        let marks = [handle, newer, foreign].map(|handle| handle.mark(&key));
        assert!(marks.iter().all(|mark| *mark <= MARK_MAX) && marks[0] != marks[1] && marks[0] != marks[2]);
        assert_eq!(handle.delivery.epoch(), 7);
        for at in 0..text.len() {
            let mut changed = text.clone().into_bytes();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            assert!(ReceiptHandle::decode(std::str::from_utf8(&changed).unwrap(), &key).is_err(), "character {at}");
        }
        assert_eq!(ReceiptHandle::decode(&text, &HandleKey([0; 16])), Err(HandleError::Forged));
        for bad in ["", "x", &text[1..], "a b c", &format!("{text}AAAA")] {
            assert!(matches!(ReceiptHandle::decode(bad, &key), Err(HandleError::Malformed { .. })), "{bad}");
        }
    }
}
