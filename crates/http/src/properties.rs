//! The string that holds a message's properties: `key:value` pairs, joined by `|`.
//!
//! Source: http.md section 3.2.

use crate::answer::Denied;
use crate::xml_out::is_legal;

/// Reads them, in the order in which they are there.
pub(crate) fn parse(text: &str) -> Result<Vec<(&str, &str)>, Denied> {
    let mut found: Vec<(&str, &str)> = Vec::new();
    for item in text.split('|').filter(|item| !item.is_empty()) {
        let shown = || item.chars().take(64).collect::<String>();
        let pair = item.split_once(':').filter(|(key, value)| !key.is_empty() && !value.contains(':'));
        let Some((key, value)) = pair else {
            return Err(Denied::argument(format!(
                "property {:?} is not a key, a colon and a value without one",
                shown()
            )));
        };
        if found.iter().any(|(other, _)| *other == key) {
            return Err(Denied::argument(format!("property {:?} is there twice", shown())));
        }
        found.push((key, value));
    }
    Ok(found)
}

/// Whether clients would read this pair as it is: they split at every `|` and `:`.
pub(crate) fn can_be_carried(key: &str, value: &str) -> bool {
    let fits = |text: &str| !text.contains(['|', ':']) && is_legal(text);
    !key.is_empty() && fits(key) && fits(value)
}

/// Appends a pair; with a `|` behind it, without which one SDK drops the last.
pub(crate) fn put(text: &mut String, key: &str, value: &str) {
    text.push_str(key);
    text.push(':');
    text.push_str(value);
    text.push('|');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_read_with_and_without_a_bar_at_the_end() {
        for text in ["a:1|b:", "a:1|b:|", "|a:1||b:|"] {
            assert_eq!(parse(text), Ok(vec![("a", "1"), ("b", "")]), "{text}");
        }
        assert_eq!(parse(""), Ok(vec![]));
        for bad in ["a", ":1", "a:1:2", "a:1|a:2", "a:1|b"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        let mut text = String::new();
        put(&mut text, "key", "wert ä");
        put(&mut text, "empty", "");
        assert_eq!(parse(&text), Ok(vec![("key", "wert ä"), ("empty", "")]));
        assert!(can_be_carried("key", "wert ä") && can_be_carried("key", ""));
        for (key, value) in [("a:b", "c"), ("a", "b|c"), ("a", "\u{1}"), ("", "v")] {
            assert!(!can_be_carried(key, value), "{key:?} {value:?}");
        }
    }
}
