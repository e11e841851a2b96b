//! The property string of a message: `name 0x01 value 0x02 name 0x01 value 0x02 …`, UTF-8; the last 0x02 may be missing.

use super::DecodeError;

/// Longest property string, in bytes: its length is a signed 16-bit number in messages.
pub const PROPERTY_STRING_BYTES_MAX: usize = 32_767;
const BETWEEN: u8 = 1;
const AFTER: u8 = 2;

/// The properties of a string, in order. Pairs without a name or a value are passed over, as clients do; of a name that
/// comes twice the last value counts, in the first place.
pub fn parse(text: &str) -> Result<Vec<(&str, &str)>, DecodeError> {
    if text.len() > PROPERTY_STRING_BYTES_MAX {
        let limit = PROPERTY_STRING_BYTES_MAX as u64;
        return Err(DecodeError::TooLarge { what: "length of properties", found: text.len() as u64, limit });
    }
    let mut found: Vec<(&str, &str)> = Vec::with_capacity(8);
    let mut rest = text;
    while !rest.is_empty() {
        let (pair, after) = cut(rest, AFTER);
        rest = after;
        let (name, value) = cut(pair, BETWEEN);
        if name.is_empty() || value.is_empty() {
            continue;
        }
        match found.iter_mut().find(|(known, _)| *known == name) {
            Some(known) => known.1 = value,
            None => found.push((name, value)),
        }
    }
    Ok(found)
}

/// What is in front of a mark, and what is behind it. By bytes: the texts are short, and a mark is no part of another character.
fn cut(text: &str, mark: u8) -> (&str, &str) {
    let Some(at) = text.bytes().position(|byte| byte == mark) else { return (text, "") };
    (text.get(..at).unwrap_or(""), text.get(at + 1..).unwrap_or(""))
}

/// Appends one property. Names and values that could not be read back are left out.
pub fn put(text: &mut String, name: &str, value: &str) {
    let tears = |part: &str| part.is_empty() || part.bytes().any(|byte| byte == BETWEEN || byte == AFTER);
    if tears(name) || tears(value) {
        return;
    }
    text.reserve(name.len() + value.len() + 2);
    text.push_str(name);
    text.push(char::from(BETWEEN));
    text.push_str(value);
    text.push(char::from(AFTER));
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn pairs_are_read_with_and_without_the_last_mark() {
        let expected = Ok(vec![("TAGS", "a"), ("k", "v=1")]);
        assert_eq!(parse("TAGS\u{1}a\u{2}k\u{1}v=1\u{2}"), expected);
        assert_eq!(parse("TAGS\u{1}a\u{2}k\u{1}v=1"), expected);
        assert_eq!(parse("\u{2}x\u{2}\u{1}y\u{2}z\u{1}\u{2}a\u{1}1\u{2}a\u{1}2"), Ok(vec![("a", "2")]));
        let error = parse(&"x".repeat(32_768)).unwrap_err().to_string();
        assert_eq!(error, "length of properties is 32768, the limit is 32767");
    }

    proptest! {
        #[test]
        fn what_is_put_is_read(pairs in prop::collection::btree_map("[^\u{1}\u{2}]{1,20}", "[^\u{1}\u{2}]{1,20}", 0..20)) {
            let mut text = String::new();
            pairs.iter().for_each(|(name, value)| put(&mut text, name, value));
            let read: std::collections::BTreeMap<String, String> =
                parse(&text).unwrap().into_iter().map(|(name, value)| (name.into(), value.into())).collect();
            prop_assert_eq!(read, pairs);
        }
    }
}
