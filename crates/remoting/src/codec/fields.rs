//! The fields of a request or an answer, and typed access to those of a request.

use super::header::Header;
use super::shown;
use std::fmt::{Debug, Display, Formatter, Write as _};

/// Fields by name, in order. Their texts lie one behind the other in one piece of memory: a send has a dozen, its answer half as many.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct FieldList {
    text: String,
    /// Of each field, where in the text its name ends, and where its value does, which begins there.
    ends: Vec<(usize, usize)>,
}

impl FieldList {
    /// Makes room for so many more with so many bytes of names and values.
    pub fn reserve(&mut self, fields: usize, bytes: usize) {
        self.text.reserve(bytes);
        self.ends.reserve(fields);
    }

    /// Takes all fields out and keeps their room.
    pub fn clear(&mut self) {
        self.text.clear();
        self.ends.clear();
    }

    /// Fields in it.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Bytes of all names and values.
    pub fn bytes(&self) -> usize {
        self.text.len()
    }

    /// Adds a field.
    pub fn push(&mut self, name: &str, value: &str) {
        self.text.push_str(name);
        let name_end = self.text.len();
        self.text.push_str(value);
        self.ends.push((name_end, self.text.len()));
    }

    /// Adds a field whose value is anything that has a text.
    pub fn push_shown(&mut self, name: &str, value: impl Display) {
        self.text.push_str(name);
        let name_end = self.text.len();
        // A string that grows takes everything.
        let _ = write!(self.text, "{value}");
        self.ends.push((name_end, self.text.len()));
    }

    /// Adds a field whose value is a whole number.
    pub fn push_number(&mut self, name: &str, value: impl itoa::Integer) {
        self.push(name, itoa::Buffer::new().format(value));
    }

    /// Adds the field that `read` appends, name and value, and says where between them the name ends. `None`: it is none after all.
    pub(super) fn push_read<E>(&mut self, read: impl FnOnce(&mut String) -> Result<Option<usize>, E>) -> Result<(), E> {
        let start = self.text.len();
        match read(&mut self.text)? {
            Some(name_end) => self.ends.push((name_end, self.text.len())),
            None => self.text.truncate(start),
        }
        Ok(())
    }

    /// Names and values, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        let mut start = 0;
        self.ends.iter().map(move |&(name_end, end)| {
            let name = self.text.get(std::mem::replace(&mut start, end)..name_end);
            (name.unwrap_or(""), self.text.get(name_end..end).unwrap_or(""))
        })
    }

    /// The value of the first field of a name.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.iter().find(|(known, _)| *known == name).map(|(_, value)| value)
    }
}

impl Debug for FieldList {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl<N: AsRef<str>, V: AsRef<str>> FromIterator<(N, V)> for FieldList {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(fields: I) -> Self {
        let mut list = Self::default();
        fields.into_iter().for_each(|(name, value)| list.push(name.as_ref(), value.as_ref()));
        list
    }
}

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

/// The name of a field and what it says, if it is there.
pub type Named<'a> = (&'static str, Option<&'a str>);

/// A text; blank ones count as missing.
pub fn text<'a>((name, value): Named<'a>) -> Result<&'a str, FieldError> {
    value.filter(|text| !text.trim().is_empty()).ok_or(FieldError::Missing { name })
}

/// A number of 32 bits.
pub fn i32(field: Named<'_>) -> Result<i32, FieldError> {
    number(field, "a whole number of 32 bits")
}

/// A number of 64 bits.
pub fn i64(field: Named<'_>) -> Result<i64, FieldError> {
    number(field, "a whole number of 64 bits")
}

/// Whether it says yes: `true` or, as some clients write it, `1`.
pub fn flag((_, value): Named<'_>) -> bool {
    matches!(value, Some("true" | "TRUE" | "True" | "1"))
}

fn number<T: std::str::FromStr>((name, value): Named<'_>, expected: &'static str) -> Result<T, FieldError> {
    let text = value.ok_or(FieldError::Missing { name })?;
    text.trim().parse().map_err(|_| FieldError::Value { name, value: shown(text), expected })
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
        text(self.named(name))
    }

    /// A number of 32 bits.
    pub fn i32(&self, name: &'static str) -> Result<i32, FieldError> {
        i32(self.named(name))
    }

    /// A number of 64 bits.
    pub fn i64(&self, name: &'static str) -> Result<i64, FieldError> {
        i64(self.named(name))
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
        number(self.named(name), "a whole number from 0 on")
    }

    /// The number of a queue.
    pub fn queue(&self) -> Result<u32, FieldError> {
        number(self.named("queueId"), "the number of a queue, from 0 on")
    }

    /// Whether a field says yes: `true` or, as some clients write it, `1`.
    pub fn flag(&self, name: &'static str) -> bool {
        flag(self.named(name))
    }

    fn named(&self, name: &'static str) -> Named<'a> {
        (name, self.0.field(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_into_a_list_is_found_again() {
        let mut list = FieldList::default();
        list.push("z", "0");
        list.clear();
        list.reserve(4, 64);
        list.push("a", "1");
        list.push_shown("b", 2);
        list.push("", "");
        list.push("a", "3");
        let none: Result<(), ()> = list.push_read(|text| {
            text.push_str("gone");
            Ok(None)
        });
        let some: Result<(), ()> = list.push_read(|text| {
            text.push('c');
            let name_end = text.len();
            text.push('4');
            Ok(Some(name_end))
        });
        assert_eq!((none, some), (Ok(()), Ok(())));
        let found: Vec<_> = list.iter().collect();
        assert_eq!(found, [("a", "1"), ("b", "2"), ("", ""), ("a", "3"), ("c", "4")]);
        assert_eq!((list.get("a"), list.get("c"), list.get("d")), (Some("1"), Some("4"), None));
        assert_eq!((list.len(), list.bytes()), (5, 8));
        assert_eq!(found.into_iter().collect::<FieldList>(), list);
    }

    #[test]
    fn errors_name_the_field_and_what_it_says() {
        let fields = [("a", "x"), ("b", "-1"), ("c", " "), ("d", "99999999999"), ("batch", "1")];
        let header = Header { fields: fields.into_iter().collect(), ..Header::default() };
        let fields = Fields::of(&header);
        assert_eq!(fields.i32("a").unwrap_err().to_string(), "field a is \"x\", not a whole number of 32 bits");
        assert_eq!(fields.u64("b").unwrap_err().to_string(), "field b is \"-1\", not a whole number from 0 on");
        assert_eq!(fields.text("c").unwrap_err().to_string(), "field c is missing");
        assert_eq!(fields.queue().unwrap_err().to_string(), "field queueId is missing");
        assert!(fields.i32("d").is_err() && fields.i64("d") == Ok(99_999_999_999));
        assert_eq!((fields.i32_or("e", 7), fields.flag("batch"), fields.flag("e")), (Ok(7), true, false));
    }
}
