//! Typed access to the fields of a request.

use super::header::Header;
use super::shown;

/// A field that is missing or not what it should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FieldError {
    /// It has to be there.
    #[error("field {name} is missing")]
    Missing {
        /// Its name.
        name: &'static str,
    },
    /// It does not say what it should.
    #[error("field {name} is {value:?}, not {expected}")]
    Value {
        /// Its name.
        name: &'static str,
        /// What it says (cut to 128 characters).
        value: String,
        /// What it could say.
        expected: &'static str,
    },
}

/// Fields of one request.
#[derive(Clone, Copy, Debug)]
pub struct Fields<'a>(&'a Header);

impl<'a> Fields<'a> {
    /// The fields of a header.
    pub fn of(header: &'a Header) -> Self {
        Self(header)
    }

    /// A text that may be missing.
    pub fn optional(&self, name: &'static str) -> Option<&'a str> {
        self.0.field(name)
    }

    /// A text; blank ones count as missing.
    pub fn text(&self, name: &'static str) -> Result<&'a str, FieldError> {
        self.0.field(name).filter(|text| !text.trim().is_empty()).ok_or(FieldError::Missing { name })
    }

    /// A number of 32 bits.
    pub fn i32(&self, name: &'static str) -> Result<i32, FieldError> {
        self.number(name, "a whole number of 32 bits")
    }

    /// A number of 64 bits.
    pub fn i64(&self, name: &'static str) -> Result<i64, FieldError> {
        self.number(name, "a whole number of 64 bits")
    }

    /// A number of 32 bits, or this one if it is missing.
    pub fn i32_or(&self, name: &'static str, default: i32) -> Result<i32, FieldError> {
        self.0.field(name).map_or(Ok(default), |_| self.i32(name))
    }

    /// A number of 64 bits, or this one if it is missing.
    pub fn i64_or(&self, name: &'static str, default: i64) -> Result<i64, FieldError> {
        self.0.field(name).map_or(Ok(default), |_| self.i64(name))
    }

    /// A number that is not negative.
    pub fn u64(&self, name: &'static str) -> Result<u64, FieldError> {
        self.number(name, "a whole number from 0 on")
    }

    /// The number of a queue.
    pub fn queue(&self) -> Result<u32, FieldError> {
        self.number("queueId", "the number of a queue, from 0 on")
    }

    /// Whether a field says yes: `true` or, as some clients write it, `1`.
    pub fn flag(&self, name: &'static str) -> bool {
        matches!(self.0.field(name), Some("true" | "TRUE" | "True" | "1"))
    }

    fn number<T: std::str::FromStr>(&self, name: &'static str, expected: &'static str) -> Result<T, FieldError> {
        let text = self.0.field(name).ok_or(FieldError::Missing { name })?;
        text.trim().parse().map_err(|_| FieldError::Value { name, value: shown(text), expected })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_name_the_field_and_what_it_says() {
        let fields = [("a", "x"), ("b", "-1"), ("c", " "), ("d", "99999999999"), ("batch", "1")];
        let fields = fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let header = Header { fields, ..Header::default() };
        let fields = Fields::of(&header);
        assert_eq!(fields.i32("a").unwrap_err().to_string(), "field a is \"x\", not a whole number of 32 bits");
        assert_eq!(fields.u64("b").unwrap_err().to_string(), "field b is \"-1\", not a whole number from 0 on");
        assert_eq!(fields.text("c").unwrap_err().to_string(), "field c is missing");
        assert_eq!(fields.queue().unwrap_err().to_string(), "field queueId is missing");
        assert!(fields.i32("d").is_err() && fields.i64("d") == Ok(99_999_999_999));
        assert_eq!((fields.i32_or("e", 7), fields.flag("batch"), fields.flag("e")), (Ok(7), true, false));
    }
}
