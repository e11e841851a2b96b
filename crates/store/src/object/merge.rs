//! What is kept under a key of the shard: pieces in order, each a kind (byte: 0 image, 1 delta), a length (varint), and
//! the bytes. A delta is written without reading what is there; the database puts the pieces together.

use crate::KeyState;
use crate::codec::{Input, Malformed, put_varint};
use bytes::Bytes;
use slatedb::{MergeOperator, MergeOperatorError};

const IMAGE: u8 = 0;
const DELTA: u8 = 1;

pub fn image(image: &[u8]) -> Vec<u8> {
    piece(IMAGE, image)
}

pub fn delta(delta: &[u8]) -> Vec<u8> {
    piece(DELTA, delta)
}

fn piece(kind: u8, value: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(value.len() + 6);
    out.push(kind);
    put_varint(&mut out, value.len() as u64);
    out.extend_from_slice(value);
    out
}

/// The pieces, as parts of `value`.
pub fn decode(value: &Bytes) -> Result<KeyState, Malformed> {
    let mut input = Input::new(value);
    let mut state = KeyState::default();
    while !input.is_empty() {
        let kind = input.byte("kind of a piece")?;
        let length = input.varint("length of a piece")?;
        let length = usize::try_from(length).map_err(|_| input.malformed("length of a piece"))?;
        let start = input.position();
        input.take(length, "a piece as long as it says")?;
        let bytes = value.slice(start..start + length);
        match kind {
            IMAGE => state = KeyState { image: Some(bytes), deltas: Vec::new() },
            DELTA => state.deltas.push(bytes),
            _ => return Err(input.malformed("kind of a piece 0 or 1")),
        }
    }
    Ok(state)
}

/// Puts pieces one behind the other.
pub struct Pieces;

impl MergeOperator for Pieces {
    fn merge(&self, key: &Bytes, existing: Option<Bytes>, value: Bytes) -> Result<Bytes, MergeOperatorError> {
        self.merge_batch(key, existing, &[value])
    }

    fn merge_batch(
        &self,
        _key: &Bytes,
        existing: Option<Bytes>,
        operands: &[Bytes],
    ) -> Result<Bytes, MergeOperatorError> {
        let length = existing.as_ref().map_or(0, Bytes::len) + operands.iter().map(Bytes::len).sum::<usize>();
        let mut whole = Vec::with_capacity(length);
        whole.extend_from_slice(existing.as_deref().unwrap_or_default());
        operands.iter().for_each(|operand| whole.extend_from_slice(operand));
        Ok(whole.into())
    }
}
