//! Headers of requests and answers, in both formats.
//!
//! JSON: one object with `code`, `language`, `version`, `opaque`, `flag`, `remark`, `extFields` (text to text; some clients
//! write numbers). Binary, numbers big-endian:
//!
//! | bytes | field |
//! | --- | --- |
//! | 2 | code (16 bits, see [`super::code::whole`]) |
//! | 1 | language |
//! | 2 | version |
//! | 4 | opaque |
//! | 4 | flag |
//! | 4 + n | remark |
//! | 4 + n | fields: each 2 + n name, 4 + n value |

use super::fields::FieldList;
use super::json::{Json, Reader, quote};
use super::{Cursor, DecodeError, code};

/// Most fields of one header.
pub const FIELDS_MAX: usize = 256;
/// Bit of `flag`: this is an answer.
pub const FLAG_RESPONSE: i32 = 1;
/// Bit of `flag`: nobody waits for an answer.
pub const FLAG_ONE_WAY: i32 = 2;

/// How a header is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// As a JSON object; what every client reads.
    #[default]
    Json = 0,
    /// In binary.
    Binary = 1,
}

/// A header of either kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// What is asked, or how it went.
    pub code: i32,
    /// Number of the client's language, see [`language_name`].
    pub language: u8,
    /// Ordinal of the client's version.
    pub version: i32,
    /// Matches answers to requests.
    pub opaque: i32,
    /// [`FLAG_RESPONSE`], [`FLAG_ONE_WAY`].
    pub flag: i32,
    /// For people: what went wrong.
    pub remark: Option<String>,
    /// Fields by name.
    pub fields: FieldList,
    /// How it came, or is to be written.
    pub format: Format,
}

const LANGUAGES: [&str; 14] = [
    "JAVA", "CPP", "DOTNET", "PYTHON", "DELPHI", "ERLANG", "RUBY", "OTHER", "HTTP", "GO", "PHP", "OMS", "RUST",
    "NODE_JS",
];

/// Name of a language; `OTHER` for those that have none.
pub fn language_name(number: u8) -> &'static str {
    LANGUAGES.get(usize::from(number)).copied().unwrap_or("OTHER")
}

impl Header {
    /// Whether this answers a request.
    pub fn is_response(&self) -> bool {
        self.flag & FLAG_RESPONSE != 0
    }

    /// Whether nobody waits for an answer.
    pub fn is_one_way(&self) -> bool {
        self.flag & FLAG_ONE_WAY != 0
    }

    /// The value of a field.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.get(name)
    }

    /// Reads a header.
    pub fn decode(bytes: &[u8], format: Format) -> Result<Self, DecodeError> {
        let mut header = Self::default();
        header.read(bytes, format)?;
        Ok(header)
    }

    /// Reads a header in place of this one, into the memory that its fields have.
    pub fn read(&mut self, bytes: &[u8], format: Format) -> Result<(), DecodeError> {
        let mut fields = std::mem::take(&mut self.fields);
        fields.clear();
        *self = Self { fields, format, ..Self::default() };
        match format {
            Format::Json => self.read_json(bytes),
            Format::Binary => self.read_binary(bytes),
        }
    }

    fn read_json(&mut self, bytes: &[u8]) -> Result<(), DecodeError> {
        let mut reader = Reader::new(bytes, "header")?;
        let header = self;
        let mut has_code = false;
        let (mut key, mut value) = (String::with_capacity(24), String::with_capacity(24));
        let is_object = reader.entries(|reader| {
            key.clear();
            read_text(reader, 1, &mut key)?;
            reader.colon()?;
            // As they come: requests have a dozen or two.
            if key == "extFields" {
                read_fields(reader, bytes.len(), &mut header.fields)?;
                return Ok(());
            }
            value.clear();
            let is_null = !read_text(reader, 1, &mut value)?;
            let number = |what| {
                let text = if is_null { "null" } else { &value };
                text.parse::<i32>().map_err(|_| DecodeError::Value { what, found: super::shown(text) })
            };
            match &*key {
                "code" => {
                    header.code = number("code")?;
                    has_code = true;
                }
                "version" => header.version = number("version")?,
                "opaque" => header.opaque = number("opaque")?,
                "flag" => header.flag = number("flag")?,
                "language" => {
                    let known = LANGUAGES.iter().position(|name| *name == value).and_then(|at| u8::try_from(at).ok());
                    header.language = known.or_else(|| value.parse().ok()).unwrap_or(7);
                }
                "remark" => header.remark = (!is_null).then(|| value.clone()),
                _ => {}
            }
            Ok(())
        })?;
        if !is_object {
            Json::parse(bytes, "header")?;
            return Err(DecodeError::Value { what: "header", found: "not a JSON object".into() });
        }
        reader.end()?;
        match has_code {
            true => Ok(()),
            false => Err(DecodeError::Value { what: "code", found: "missing".into() }),
        }
    }

    fn read_binary(&mut self, bytes: &[u8]) -> Result<(), DecodeError> {
        let mut from = Cursor::new(bytes, "header");
        self.code = code::whole(from.i16()?);
        self.language = from.u8()?;
        self.version = i32::from(from.i16()?);
        self.opaque = from.i32()?;
        self.flag = from.i32()?;
        let length = from.length()?;
        let remark = from.text(length)?;
        self.remark = (!remark.is_empty()).then(|| remark.to_owned());
        let length = from.length()?;
        let mut from = Cursor::new(from.take(length)?, "extFields");
        while !from.is_empty() {
            check_count(self.fields.len() + 1)?;
            let length = from.i16()?;
            let length = usize::try_from(length)
                .map_err(|_| DecodeError::Value { what: "length of a name in extFields", found: length.to_string() })?;
            let name = from.text(length)?;
            let length = from.length()?;
            let value = from.text(length)?;
            // What is empty stands for what is not there.
            if !value.is_empty() {
                self.fields.push(name, value);
            }
        }
        Ok(())
    }

    /// The bytes of this header in its format.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.write(&mut bytes);
        bytes
    }

    /// Appends the bytes of this header in its format.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.reserve(160 + self.fields.bytes() + 6 * self.fields.len());
        match self.format {
            Format::Json => self.write_json(out),
            Format::Binary => self.write_binary(out),
        }
    }

    fn write_json(&self, out: &mut Vec<u8>) {
        let mut digits = itoa::Buffer::new();
        let mut number = |out: &mut Vec<u8>, name: &[u8], value: i32| {
            out.extend_from_slice(name);
            out.extend_from_slice(digits.format(value).as_bytes());
        };
        number(out, b"{\"code\":", self.code);
        if !self.fields.is_empty() {
            out.extend_from_slice(b",\"extFields\":{");
            for (n, (name, value)) in self.fields.iter().enumerate() {
                if n > 0 {
                    out.push(b',');
                }
                quote(out, name);
                out.push(b':');
                quote(out, value);
            }
            out.push(b'}');
        }
        number(out, b",\"flag\":", self.flag);
        out.extend_from_slice(b",\"language\":");
        quote(out, language_name(self.language));
        number(out, b",\"opaque\":", self.opaque);
        if let Some(remark) = &self.remark {
            out.extend_from_slice(b",\"remark\":");
            quote(out, remark);
        }
        number(out, b",\"serializeTypeCurrentRPC\":\"JSON\",\"version\":", self.version);
        out.push(b'}');
    }

    fn write_binary(&self, bytes: &mut Vec<u8>) {
        // The format holds 16 bits of code and version; readers know.
        bytes.extend_from_slice(&(self.code as i16).to_be_bytes());
        bytes.push(self.language);
        bytes.extend_from_slice(&(self.version as i16).to_be_bytes());
        bytes.extend_from_slice(&self.opaque.to_be_bytes());
        bytes.extend_from_slice(&self.flag.to_be_bytes());
        let remark = self.remark.as_deref().unwrap_or("");
        put_length(bytes, remark.len());
        bytes.extend_from_slice(remark.as_bytes());
        let fields = || self.fields.iter().filter(|(name, _)| i16::try_from(name.len()).is_ok());
        put_length(bytes, fields().map(|(name, value)| 6 + name.len() + value.len()).sum());
        for (name, value) in fields() {
            bytes.extend_from_slice(&(name.len() as i16).to_be_bytes());
            bytes.extend_from_slice(name.as_bytes());
            put_length(bytes, value.len());
            bytes.extend_from_slice(value.as_bytes());
        }
    }
}

fn put_length(bytes: &mut Vec<u8>, length: usize) {
    bytes.extend_from_slice(&i32::try_from(length).unwrap_or(i32::MAX).to_be_bytes());
}

fn check_count(count: usize) -> Result<(), DecodeError> {
    match count > FIELDS_MAX {
        true => {
            Err(DecodeError::TooLarge { what: "number of extFields", found: count as u64, limit: FIELDS_MAX as u64 })
        }
        false => Ok(()),
    }
}

/// Appends what the next value says: a text or a number as it is, others as JSON has them. False: it is null.
fn read_text(reader: &mut Reader<'_>, depth: usize, out: &mut String) -> Result<bool, DecodeError> {
    if reader.plain(out)? {
        return Ok(true);
    }
    let value = reader.value(depth)?;
    if value != Json::Null {
        out.push_str(&value.to_string());
    }
    Ok(value != Json::Null)
}

/// Fields as JSON has them, in a header of so many bytes; what is no object has none.
fn read_fields(reader: &mut Reader<'_>, bytes: usize, fields: &mut FieldList) -> Result<(), DecodeError> {
    fields.clear();
    fields.reserve(16, bytes);
    let is_object = reader.entries(|reader| {
        check_count(fields.len() + 1)?;
        fields.push_read(|text| {
            let has_name = read_text(reader, 2, text)?;
            let name_end = text.len();
            reader.colon()?;
            let has_value = read_text(reader, 2, text)?;
            Ok((has_name && has_value).then_some(name_end))
        })
    })?;
    if !is_object {
        reader.value(1)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_header_as_java_writes_it_is_read() {
        let bytes = br#"{"code":310,"extFields":{"a":"PG","e":"3"},"flag":0,"language":"JAVA","opaque":5,"serializeTypeCurrentRPC":"JSON","version":513}"#;
        let header = Header::decode(bytes, Format::Json).unwrap();
        assert_eq!((header.code, header.opaque, header.version), (310, 5, 513));
        assert_eq!((header.field("a"), header.field("e"), header.field("z")), (Some("PG"), Some("3"), None));
        assert_eq!(header.encode(), bytes);
    }

    #[test]
    fn numbers_among_the_fields_and_unknown_languages_are_taken() {
        let bytes = br#"{"code":11,"extFields":{"queueId":0,"batch":"0","x":null,"y":true},"flag":0,"language":"KLINGON","opaque":1,"remark":"","version":63}"#;
        let header = Header::decode(bytes, Format::Json).unwrap();
        assert_eq!((header.field("queueId"), header.field("x"), header.field("y")), (Some("0"), None, Some("true")));
        assert_eq!(language_name(header.language), "OTHER");
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (bytes, text) in [
            (&br#"{"opaque":1}"#[..], "code is missing"),
            (br#"{"code":"x"}"#, "code is x"),
            (br#"[]"#, "header is not a JSON object"),
            (br#"{"code":1,"opaque":99999999999}"#, "opaque is 99999999999"),
        ] {
            assert_eq!(Header::decode(bytes, Format::Json).unwrap_err().to_string(), text);
        }
        let fields = std::iter::repeat_n(("n", "v"), FIELDS_MAX + 1).collect();
        let header = Header { fields, format: Format::Binary, ..Header::default() };
        let error = Header::decode(&header.encode(), Format::Binary).unwrap_err().to_string();
        assert_eq!(error, "number of extFields is 257, the limit is 256");
    }

    fn header() -> impl Strategy<Value = Header> {
        let fields = prop::collection::vec(("\\PC{1,12}", "\\PC{1,40}"), 0..12);
        let remark = prop::option::of("\\PC{1,40}");
        let numbers = (0..32_768_i32, 0..14_u8, 0..32_767_i32, any::<i32>(), 0..4_i32);
        (numbers, remark, fields, any::<bool>()).prop_map(
            |((code, language, version, opaque, flag), remark, fields, binary)| {
                let format = if binary { Format::Binary } else { Format::Json };
                let code = if binary { code::whole(code as i16) } else { code };
                Header { code, language, version, opaque, flag, remark, fields: fields.into_iter().collect(), format }
            },
        )
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(header in header()) {
            prop_assert_eq!(Header::decode(&header.encode(), header.format), Ok(header));
        }

        #[test]
        fn no_bytes_panic(header in header(), cut in any::<prop::sample::Index>(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
            let mut bytes = header.encode();
            let place = at.index(bytes.len());
            bytes[place] = byte;
            let _ = Header::decode(&bytes, header.format);
            let _ = Header::decode(&bytes[..cut.index(bytes.len())], header.format);
        }
    }
}
