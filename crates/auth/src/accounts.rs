//! The file of accounts.

use crate::user::{NAME_BYTES_MAX, SECRET_BYTES_MAX, Secret};
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Bytes of a file of accounts.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Access keys and their secrets. Shows no secret when it is printed.
#[derive(Clone, Default)]
pub struct Accounts(Arc<BTreeMap<String, Secret>>);

/// Why accounts cannot be read. Names lines, never what is in them.
#[derive(Debug, thiserror::Error)]
pub enum AccountsError {
    /// The file cannot be read.
    #[error("cannot read the accounts in {}: {error}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's words.
        error: std::io::Error,
    },
    /// A line is not an account.
    #[error("{}: line {line} {rule}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What it breaks.
        rule: &'static str,
    },
    /// There is no account in it.
    #[error("{}: there is no account in it; each line is an access key, a space and its secret", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
}

impl fmt::Debug for Accounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Accounts({})", self.0.len())
    }
}

impl Accounts {
    /// Reads a file: on each line an access key, a space and its secret; empty lines and those that begin with `#` are left
    /// out.
    pub fn load(path: &Path) -> Result<Self, AccountsError> {
        let unreadable = |error| AccountsError::Unreadable { path: path.to_owned(), error };
        let bytes = std::fs::metadata(path).map_err(unreadable)?.len();
        if bytes > FILE_BYTES_MAX {
            let error = std::io::Error::other(format!("it has {bytes} bytes, the limit is {FILE_BYTES_MAX}"));
            return Err(unreadable(error));
        }
        let text = std::fs::read_to_string(path).map_err(unreadable)?;
        Self::parse(&text).map_err(|wrong| match wrong {
            Some((line, rule)) => AccountsError::Line { path: path.to_owned(), line, rule },
            None => AccountsError::Empty { path: path.to_owned() },
        })
    }

    /// Reads the text of such a file; else the line, counted from 1, and what it breaks, or `None` where there is no account.
    pub fn parse(text: &str) -> Result<Self, Option<(usize, &'static str)>> {
        let mut accounts = BTreeMap::new();
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let wrong = |rule| Some((number + 1, rule));
            let mut words = line.split_whitespace();
            let (Some(key), Some(secret), None) = (words.next(), words.next(), words.next()) else {
                return Err(wrong("is not an access key, a space and its secret"));
            };
            if key.len() > NAME_BYTES_MAX || secret.len() > SECRET_BYTES_MAX {
                return Err(wrong("has an access key or secret of more than 256 bytes"));
            }
            if crate::check_name("access key", key).is_err() {
                return Err(wrong(
                    "has an access key with a colon, slash, comma or a character beyond ASCII, which no client can send",
                ));
            }
            if accounts.insert(key.to_owned(), Secret::new(secret)).is_some() {
                return Err(wrong("has an access key that is there before"));
            }
        }
        if accounts.is_empty() {
            return Err(None);
        }
        Ok(Self(Arc::new(accounts)))
    }

    /// The secret of an access key.
    pub fn secret(&self, key: &str) -> Option<&Secret> {
        self.0.get(key)
    }

    /// All access keys, in order.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_accounts_are_refused_by_line_and_no_secret_is_shown() {
        let accounts = Accounts::parse("# for tests\n\nkey hidden\n").unwrap();
        assert_eq!(accounts.keys().collect::<Vec<_>>(), ["key"]);
        assert_eq!(format!("{accounts:?}"), "Accounts(1)");
        assert_eq!(Accounts::parse("# nothing\n").unwrap_err(), None);
        let long = format!("a {}", "x".repeat(257));
        for (text, line) in [("a", 1), ("a b\nc d e", 2), ("a b\n\na c", 3), ("a:b c", 1), ("a/b c", 1), (&long, 1)] {
            assert_eq!(Accounts::parse(text).unwrap_err().map(|(line, _)| line), Some(line), "{text:?}");
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("accounts");
        std::fs::write(&path, "key hidden more\n").unwrap();
        let error = Accounts::load(&path).unwrap_err();
        assert!(!format!("{error} {error:?}").contains("hidden"), "{error}");
    }
}
