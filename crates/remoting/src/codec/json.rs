//! JSON as these clients write and read it.
//!
//! What differs from the standard: a key may be a number (`{0:"ip:port"}`) or an object
//! (`{{"brokerName":"b","queueId":0,"topic":"t"}:{…}}`), read and, where a body needs it, written; a trailing comma is passed
//! over. Numbers keep the text they came with. Bounds: [`DEPTH_MAX`], [`VALUES_MAX`].

use super::DecodeError;

/// How deep values may be nested.
pub const DEPTH_MAX: usize = 32;
/// Values in one text, keys included.
pub const VALUES_MAX: usize = 200_000;

/// A JSON value; keys of objects are values, too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Json {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A number, as its text.
    Number(String),
    /// A text.
    Text(String),
    /// A list.
    List(Vec<Json>),
    /// Keys and values, in order.
    Object(Vec<(Json, Json)>),
}

impl Json {
    /// An object with these keys; those whose value is null are left out.
    pub fn object<'k>(entries: impl IntoIterator<Item = (&'k str, Json)>) -> Json {
        let present = entries.into_iter().filter(|(_, value)| *value != Json::Null);
        Json::Object(present.map(|(key, value)| (Json::Text(key.to_owned()), value)).collect())
    }

    /// A list.
    pub fn list(values: impl IntoIterator<Item = impl Into<Json>>) -> Json {
        Json::List(values.into_iter().map(Into::into).collect())
    }

    /// The value of a key of an object; `None` if it is missing or null.
    pub fn get(&self, wanted: &str) -> Option<&Json> {
        let Json::Object(entries) = self else { return None };
        let found = entries.iter().find(|(key, _)| matches!(key, Json::Text(text) if text == wanted))?;
        (found.1 != Json::Null).then_some(&found.1)
    }

    /// What a scalar says: texts, numbers and truth values alike.
    pub fn scalar(&self) -> Option<&str> {
        match self {
            Json::Text(text) | Json::Number(text) => Some(text),
            Json::Bool(true) => Some("true"),
            Json::Bool(false) => Some("false"),
            _ => None,
        }
    }

    /// A text under a key, from any scalar.
    pub fn text(&self, key: &str) -> Option<&str> {
        self.get(key)?.scalar()
    }

    /// A number under a key, written as a number or as a text.
    pub fn int(&self, key: &str) -> Option<i64> {
        self.text(key)?.parse().ok()
    }

    /// Whether a key says `true`.
    pub fn is_true(&self, key: &str) -> bool {
        self.text(key) == Some("true")
    }

    /// The values of a list under a key; of anything else none.
    pub fn items(&self, key: &str) -> &[Json] {
        match self.get(key) {
            Some(Json::List(items)) => items,
            _ => &[],
        }
    }

    /// Reads a text; `what` is for errors.
    pub fn parse(bytes: &[u8], what: &'static str) -> Result<Json, DecodeError> {
        let mut reader = Reader::new(bytes, what)?;
        let value = reader.value(0)?;
        reader.end().map(|()| value)
    }

    /// Its text, in UTF-8.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.write(&mut out);
        out
    }

    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Json::Null => out.extend_from_slice(b"null"),
            Json::Bool(value) => out.extend_from_slice(if *value { b"true" } else { b"false" }),
            Json::Number(text) => out.extend_from_slice(text.as_bytes()),
            Json::Text(text) => quote(out, text),
            Json::List(items) => {
                out.push(b'[');
                for (n, item) in items.iter().enumerate() {
                    if n > 0 {
                        out.push(b',');
                    }
                    item.write(out);
                }
                out.push(b']');
            }
            Json::Object(entries) => {
                out.push(b'{');
                for (n, (key, value)) in entries.iter().enumerate() {
                    if n > 0 {
                        out.push(b',');
                    }
                    key.write(out);
                    out.push(b':');
                    value.write(out);
                }
                out.push(b'}');
            }
        }
    }
}

impl std::fmt::Display for Json {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.to_bytes()))
    }
}

impl From<&str> for Json {
    fn from(text: &str) -> Self {
        Json::Text(text.to_owned())
    }
}

impl From<String> for Json {
    fn from(text: String) -> Self {
        Json::Text(text)
    }
}

impl From<bool> for Json {
    fn from(value: bool) -> Self {
        Json::Bool(value)
    }
}

macro_rules! numbers {
    ($($kind:ty),*) => {$(
        impl From<$kind> for Json {
            fn from(number: $kind) -> Self {
                Json::Number(number.to_string())
            }
        }
    )*};
}
numbers!(i32, i64, u32, u64, usize);

impl<T: Into<Json>> From<Option<T>> for Json {
    fn from(value: Option<T>) -> Self {
        value.map_or(Json::Null, Into::into)
    }
}

/// Appends a text with quotation marks.
pub fn quote(out: &mut Vec<u8>, text: &str) {
    out.reserve(text.len() + 2);
    out.push(b'"');
    let mut rest = text.as_bytes();
    // Nearly all texts have nothing to escape: what lies between is taken as a whole.
    while let Some(at) = rest.iter().position(|byte| *byte < b' ' || *byte == b'"' || *byte == b'\\') {
        let (plain, from) = rest.split_at(at);
        out.extend_from_slice(plain);
        let Some((&byte, after)) = from.split_first() else { break };
        match byte {
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            control if control < b' ' => {
                let digit = |four_bits: u8| b"0123456789abcdef".get(usize::from(four_bits)).copied().unwrap_or(b'0');
                out.extend_from_slice(&[b'\\', b'u', b'0', b'0', digit(control >> 4), digit(control & 15)]);
            }
            other => out.extend_from_slice(&[b'\\', other]),
        }
        rest = after;
    }
    out.extend_from_slice(rest);
    out.push(b'"');
}

/// Reads a text value by value.
pub(super) struct Reader<'a> {
    text: &'a str,
    bytes: &'a [u8],
    at: usize,
    /// Values that may still come.
    left: usize,
    what: &'static str,
}

impl<'a> Reader<'a> {
    /// `what` is for errors.
    pub(super) fn new(bytes: &'a [u8], what: &'static str) -> Result<Self, DecodeError> {
        let text = std::str::from_utf8(bytes).map_err(|_| DecodeError::Text { what })?;
        Ok(Self { text, bytes, at: 0, left: VALUES_MAX, what })
    }

    /// Nothing but blanks may follow.
    pub(super) fn end(&mut self) -> Result<(), DecodeError> {
        self.blanks();
        match self.at == self.bytes.len() {
            true => Ok(()),
            false => self.fail("something follows the value"),
        }
    }

    /// An object, entry by entry: `entry` is called in front of each key, and reads it, [`Self::colon`] and the value. False if what
    /// comes next is no object.
    pub(super) fn entries(
        &mut self,
        mut entry: impl FnMut(&mut Self) -> Result<(), DecodeError>,
    ) -> Result<bool, DecodeError> {
        if !self.skip(b'{') {
            return Ok(false);
        }
        while !self.skip(b'}') {
            entry(self)?;
            if !self.skip(b',') && self.peek() != Some(b'}') {
                return self.fail("neither , nor } after a value");
            }
        }
        Ok(true)
    }

    /// What is between a key and its value.
    pub(super) fn colon(&mut self) -> Result<(), DecodeError> {
        match self.skip(b':') {
            true => Ok(()),
            false => self.fail("no : after a key"),
        }
    }

    /// Appends what the next value says, if it is a text or a number. False: it is neither, and is still to be read.
    pub(super) fn plain(&mut self, out: &mut String) -> Result<bool, DecodeError> {
        self.blanks();
        match self.peek() {
            Some(b'"') => {
                self.count()?;
                self.text(out).map(|()| true)
            }
            Some(b'-' | b'0'..=b'9') => {
                self.count()?;
                out.push_str(self.number()?);
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    fn fail<T>(&self, reason: &'static str) -> Result<T, DecodeError> {
        Err(DecodeError::Json { what: self.what, at: self.at, reason })
    }

    /// What was read since then; both are places of ASCII characters or the end.
    fn since(&self, start: usize) -> &'a str {
        let text: &'a str = self.text;
        text.get(start..self.at).unwrap_or("")
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn blanks(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\r' | b'\n')) {
            self.at += 1;
        }
    }

    /// The next byte that is not blank, passed over if it is this one.
    fn skip(&mut self, wanted: u8) -> bool {
        self.blanks();
        let is_it = self.peek() == Some(wanted);
        self.at += usize::from(is_it);
        is_it
    }

    /// The next value, which lies so deep.
    pub(super) fn value(&mut self, depth: usize) -> Result<Json, DecodeError> {
        if depth > DEPTH_MAX {
            return self.fail("nested deeper than 32 levels");
        }
        self.count()?;
        self.blanks();
        match self.peek() {
            Some(b'{') => self.object(depth),
            Some(b'[') => self.list(depth),
            Some(b'"') => {
                let mut text = String::new();
                self.text(&mut text).map(|()| Json::Text(text))
            }
            Some(b't') => self.word("true", Json::Bool(true)),
            Some(b'f') => self.word("false", Json::Bool(false)),
            Some(b'n') => self.word("null", Json::Null),
            Some(b'-' | b'0'..=b'9') => self.number().map(|text| Json::Number(text.to_owned())),
            Some(_) => self.fail("no value begins like this"),
            None => self.fail("it ends where a value should be"),
        }
    }

    /// One value more is read.
    fn count(&mut self) -> Result<(), DecodeError> {
        match self.left.checked_sub(1) {
            Some(left) => self.left = left,
            None => return self.fail("more than 200000 values"),
        }
        Ok(())
    }

    fn word(&mut self, word: &str, value: Json) -> Result<Json, DecodeError> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        if !rest.starts_with(word.as_bytes()) {
            return self.fail("no value begins like this");
        }
        self.at += word.len();
        Ok(value)
    }

    fn number(&mut self) -> Result<&'a str, DecodeError> {
        let start = self.at;
        while matches!(self.peek(), Some(b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E')) {
            self.at += 1;
        }
        let text = self.since(start);
        // Some clients mark long values.
        let marked = matches!(self.peek(), Some(b'L'));
        self.at += usize::from(marked);
        let digits = text.strip_prefix('-').unwrap_or(text);
        let is_whole = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        match is_whole || text.parse::<f64>().is_ok() {
            true => Ok(text),
            false => self.fail("not a number"),
        }
    }

    fn list(&mut self, depth: usize) -> Result<Json, DecodeError> {
        self.at += 1;
        let mut items = Vec::new();
        loop {
            if self.skip(b']') {
                return Ok(Json::List(items));
            }
            items.push(self.value(depth + 1)?);
            if !self.skip(b',') && self.peek() != Some(b']') {
                return self.fail("neither , nor ] after a list's value");
            }
        }
    }

    fn object(&mut self, depth: usize) -> Result<Json, DecodeError> {
        let mut entries = Vec::new();
        self.entries(|reader| {
            let key = reader.value(depth + 1)?;
            reader.colon()?;
            entries.push((key, reader.value(depth + 1)?));
            Ok(())
        })?;
        Ok(Json::Object(entries))
    }

    /// Appends the text that begins here.
    fn text(&mut self, out: &mut String) -> Result<(), DecodeError> {
        self.at += 1;
        loop {
            let rest = self.bytes.get(self.at..).unwrap_or_default();
            // Nearly all texts have nothing to escape, and are taken as a whole.
            let length = rest.iter().position(|byte| *byte == b'"' || *byte == b'\\').unwrap_or(rest.len());
            let start = self.at;
            self.at += length;
            out.push_str(self.since(start));
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(());
                }
                Some(_) => {
                    self.at += 1;
                    out.push(self.escaped()?);
                }
                None => return self.fail("a text does not end"),
            }
        }
    }

    fn escaped(&mut self) -> Result<char, DecodeError> {
        let byte = self.peek();
        self.at += 1;
        Ok(match byte {
            Some(b'n') => '\n',
            Some(b't') => '\t',
            Some(b'r') => '\r',
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'u') => {
                let high = self.hex()?;
                if !(0xd800..0xdc00).contains(&high) {
                    return Ok(char::from_u32(high).unwrap_or(char::REPLACEMENT_CHARACTER));
                }
                if self.bytes.get(self.at..self.at + 2) != Some(b"\\u") {
                    return Ok(char::REPLACEMENT_CHARACTER);
                }
                self.at += 2;
                let low = self.hex()?;
                let both = 0x10000 + ((high - 0xd800) << 10) + low.wrapping_sub(0xdc00) % 0x400;
                match (0xdc00..0xe000).contains(&low) {
                    true => char::from_u32(both).unwrap_or(char::REPLACEMENT_CHARACTER),
                    false => char::REPLACEMENT_CHARACTER,
                }
            }
            Some(other @ (b'"' | b'\\' | b'/' | b'\'')) => char::from(other),
            _ => return self.fail("not an escape"),
        })
    }

    fn hex(&mut self) -> Result<u32, DecodeError> {
        let digits = self.bytes.get(self.at..self.at + 4).and_then(|digits| std::str::from_utf8(digits).ok());
        let number = digits.and_then(|digits| u32::from_str_radix(digits, 16).ok());
        match number {
            Some(number) => {
                self.at += 4;
                Ok(number)
            }
            None => self.fail("not four hexadecimal digits"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> Json {
        Json::parse(text.as_bytes(), "body").unwrap()
    }

    #[test]
    fn keys_may_be_numbers_and_objects() {
        let table = parse(r#"{"offsetTable":{{"brokerName":"b","queueId":0,"topic":"t"}:7,},"a":{0:"x"}}"#);
        let Some(Json::Object(entries)) = table.get("offsetTable") else { panic!("{table}") };
        assert_eq!((entries[0].0.text("topic"), &entries[0].1), (Some("t"), &Json::from(7)));
        assert_eq!(table.to_string(), r#"{"offsetTable":{{"brokerName":"b","queueId":0,"topic":"t"}:7},"a":{0:"x"}}"#);
    }

    #[test]
    fn scalars_are_read_from_any_spelling_and_texts_are_unescaped() {
        let value = parse(r#" {"a" : "12", "b":12 ,"c":true,"d":null,"e":"A\n\"\ud83d\ude00\ud83d"} "#);
        assert_eq!(
            (value.int("a"), value.int("b"), value.text("c"), value.get("d")),
            (Some(12), Some(12), Some("true"), None)
        );
        assert_eq!(value.text("e"), Some("A\n\"\u{1f600}\u{fffd}"));
        for bad in ["", "{", "[1 2]", "{\"a\"}", "tru", "\"a", "1 1", "\"\\u12\"", "\"\\x\"", "-"] {
            assert!(Json::parse(bad.as_bytes(), "body").is_err(), "{bad}");
        }
    }

    #[test]
    fn depth_and_number_of_values_are_bounded() {
        assert!(Json::parse("[".repeat(100_000).as_bytes(), "body").unwrap_err().to_string().contains("32 levels"));
        let many = format!("[{}]", "0,".repeat(VALUES_MAX));
        assert!(Json::parse(many.as_bytes(), "body").unwrap_err().to_string().contains("200000"));
    }

    fn json() -> impl Strategy<Value = Json> {
        let leaf = prop_oneof![
            Just(Json::Null),
            any::<bool>().prop_map(Json::Bool),
            any::<i64>().prop_map(Json::from),
            any::<String>().prop_map(Json::Text)
        ];
        leaf.prop_recursive(4, 40, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Json::List),
                prop::collection::vec((inner.clone(), inner), 0..5).prop_map(Json::Object),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(value in json()) {
            prop_assert_eq!(Json::parse(value.to_string().as_bytes(), "body"), Ok(value));
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(prop_oneof![any::<u8>(), prop::sample::select(b"{}[]\":,\\u0t".to_vec())], 0..200)) {
            let _ = Json::parse(&bytes, "body");
        }
    }
}
