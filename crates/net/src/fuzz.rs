//! Decoders of a front behind functions that take bytes, and how they are played without a fuzzer.

use std::panic::catch_unwind;
use std::time::{SystemTime, UNIX_EPOCH};

/// A decoder. It must return, whatever the bytes are, and may assert what must hold of anything that it accepts.
pub type Target = fn(&[u8]);

/// Longest of the bytes that are not made from a sample.
const RANDOM_BYTES_MAX: u64 = 64;

/// Seed of a run: `SEED` of the environment if it is a number, else another one each time.
pub fn seed() -> u64 {
    let clock = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| since.as_nanos() as u64);
    std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(clock)
}

/// Gives so many pieces of bytes to every decoder: half of them random, half of them samples with a few bytes changed and
/// something cut off, so that the insides are reached, too. The same seed plays the same bytes.
///
/// # Errors
/// When a decoder panics: which one, on which bytes, in which round.
pub fn play(targets: &[(&str, Target)], samples: &[Vec<u8>], rounds: u32, seed: u64) -> Result<(), String> {
    let mut state = seed | 1;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for round in 0..rounds {
        let picked = usize::try_from(random()).unwrap_or(0).checked_rem(samples.len()).and_then(|at| samples.get(at));
        let mut bytes = match picked {
            Some(sample) if round % 2 == 1 => sample.clone(),
            _ => (0..random() % RANDOM_BYTES_MAX).map(|_| random() as u8).collect(),
        };
        for _ in 0..random() % 4 {
            let at = usize::try_from(random()).unwrap_or(0) % bytes.len().max(1);
            if let Some(byte) = bytes.get_mut(at) {
                *byte = random() as u8;
            }
        }
        let cut = usize::try_from(random()).unwrap_or(0) % (bytes.len() + 1) / 4;
        bytes.truncate(bytes.len() - cut);
        for (name, target) in targets {
            if catch_unwind(|| target(&bytes)).is_err() {
                return Err(format!("{name} failed on {bytes:?} (SEED={seed}, round {round})"));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decoder_that_panics_is_named_and_its_seed_plays_it_again() {
        let refuses: Target = |bytes| assert!(!bytes.ends_with(b"body") || bytes.len() > 4);
        let found = play(&[("any", |_| ()), ("body", refuses)], &[b"body".to_vec()], 1_000, 7).unwrap_err();
        assert!(found.starts_with("body failed on [98, 111, 100, 121] (SEED=7"), "{found}");
        assert_eq!(play(&[("body", refuses)], &[b"body".to_vec()], 1_000, 7).unwrap_err(), found);
        assert_eq!(play(&[("any", |_| ())], &[], 1_000, 7), Ok(()));
    }
}
