//! What is written with every batch: time of the batch (8), its number (8), little-endian.

use martlet_model::UnixMillis;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// Never decreases.
    pub time: UnixMillis,
    /// Counted from 1 since the database was made; orders places of one term.
    pub number: u64,
}

impl State {
    pub fn encode(&self) -> Vec<u8> {
        [self.time.0.to_le_bytes(), self.number.to_le_bytes()].concat()
    }

    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (time, number) = bytes.split_first_chunk::<8>()?;
        let number: [u8; 8] = number.try_into().ok()?;
        Some(Self { time: UnixMillis(i64::from_le_bytes(*time)), number: u64::from_le_bytes(number) })
    }
}
