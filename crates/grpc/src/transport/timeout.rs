//! The `grpc-timeout` header: how long the client waits.

use std::time::Duration;

/// A header that is not a timeout.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("grpc-timeout {value:?} is not 1 to 8 digits and a unit of H, M, S, m, u or n")]
pub struct TimeoutError {
    /// What it says (cut to 32 bytes).
    value: String,
}

/// Reads the header's value: 1 to 8 digits, then hours, minutes, seconds, milli-, micro- or nanoseconds.
pub fn parse(value: &[u8]) -> Result<Duration, TimeoutError> {
    let wrong = || TimeoutError { value: String::from_utf8_lossy(&value[..value.len().min(32)]).into_owned() };
    let (unit, digits) = value.split_last().ok_or_else(wrong)?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return Err(wrong());
    }
    let number = digits.iter().fold(0u64, |number, digit| number * 10 + u64::from(digit - b'0'));
    Ok(match unit {
        b'H' => Duration::from_secs(number * 3600),
        b'M' => Duration::from_secs(number * 60),
        b'S' => Duration::from_secs(number),
        b'm' => Duration::from_millis(number),
        b'u' => Duration::from_micros(number),
        b'n' => Duration::from_nanos(number),
        _ => return Err(wrong()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eight_digits_and_every_unit_are_read() {
        assert_eq!(parse(b"99999999H"), Ok(Duration::from_secs(99_999_999 * 3600)));
        assert_eq!(parse(b"3S"), Ok(Duration::from_secs(3)));
        assert_eq!(parse(b"2M"), Ok(Duration::from_secs(120)));
        assert_eq!(parse(b"2999997u"), Ok(Duration::from_micros(2_999_997)));
        assert_eq!(parse(b"1n"), Ok(Duration::from_nanos(1)));
        assert_eq!(parse(b"0m"), Ok(Duration::ZERO));
        for bad in ["", "S", "3", "-3S", "3s", "123456789S", "1.5S", " 3S"] {
            assert!(parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
