//! Names of places: a scheme, a bucket or folder, a prefix in it.

use std::fmt::{Display, Formatter};
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// What kind of store it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// Amazon S3 and what speaks its protocol.
    S3,
    /// Google Cloud Storage.
    Gcs,
    /// Azure Blob Storage; the bucket is a container.
    Azure,
    /// A folder of this machine, each write synced.
    File,
    /// Memory of this process, for tests: every opening is another, empty place.
    Memory,
}

/// A place for everything: see [`FromStr`] for how it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    /// What kind of store.
    pub scheme: Scheme,
    /// Bucket or container; empty for folders and memory.
    pub bucket: String,
    /// Path in the bucket without slashes at its ends, may be empty; of folders, the whole path.
    pub prefix: String,
}

/// Text that names no place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{value:?} names no store: {rule}")]
pub struct LocationError {
    /// What was given.
    pub value: String,
    /// What it should be.
    pub rule: &'static str,
}

impl Location {
    /// The folder, if it is one.
    pub fn folder(&self) -> Option<&Path> {
        (self.scheme == Scheme::File).then(|| Path::new(&self.prefix))
    }

    /// A folder of this machine, made absolute.
    pub fn of_folder(folder: &Path) -> std::io::Result<Self> {
        let folder: PathBuf = std::path::absolute(folder)?;
        let prefix = folder.into_os_string().into_string();
        let prefix = prefix.map_err(|_| std::io::Error::other("the folder's name is not UTF-8"))?;
        Ok(Self { scheme: Scheme::File, bucket: String::new(), prefix })
    }
}

impl FromStr for Location {
    type Err = LocationError;

    /// `s3://BUCKET[/PREFIX]`, `gs://BUCKET[/PREFIX]`, `az://CONTAINER[/PREFIX]`, `file:///ABSOLUTE/FOLDER`, `memory:`.
    fn from_str(value: &str) -> Result<Self, LocationError> {
        let wrong = |rule| LocationError { value: value.to_owned(), rule };
        if value == "memory:" {
            return Ok(Self { scheme: Scheme::Memory, bucket: String::new(), prefix: String::new() });
        }
        let Some((scheme, rest)) = value.split_once("://") else {
            return Err(wrong(
                "expected s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, az://CONTAINER/PREFIX or file:///FOLDER",
            ));
        };
        let scheme = match scheme {
            "s3" => Scheme::S3,
            "gs" => Scheme::Gcs,
            "az" => Scheme::Azure,
            "file" => Scheme::File,
            _ => return Err(wrong("the scheme is none of s3, gs, az, file")),
        };
        if rest.contains(['?', '#', '@']) || rest.chars().any(char::is_control) {
            return Err(wrong(
                "credentials, queries and control characters have no place in it; the environment gives credentials",
            ));
        }
        if scheme == Scheme::File {
            let folder = rest.trim_end_matches('/');
            if !folder.starts_with('/') || folder.split('/').any(|part| part == ".." || part == ".") {
                return Err(wrong("a folder is named by its absolute path, as in file:///var/lib/martlet"));
            }
            return Ok(Self { scheme, bucket: String::new(), prefix: folder.to_owned() });
        }
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        if bucket.is_empty() {
            return Err(wrong("the bucket's name is missing"));
        }
        let prefix = prefix.trim_end_matches('/');
        if !prefix.is_empty() && prefix.split('/').any(|part| matches!(part, "" | "." | "..")) {
            return Err(wrong("a part of the prefix is empty, . or .."));
        }
        Ok(Self { scheme, bucket: bucket.to_owned(), prefix: prefix.to_owned() })
    }
}

impl Display for Location {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> std::fmt::Result {
        let scheme = match self.scheme {
            Scheme::S3 => "s3",
            Scheme::Gcs => "gs",
            Scheme::Azure => "az",
            Scheme::File => return write!(formatter, "file://{}", self.prefix),
            Scheme::Memory => return formatter.write_str("memory:"),
        };
        write!(formatter, "{scheme}://{}", self.bucket)?;
        if self.prefix.is_empty() { Ok(()) } else { write!(formatter, "/{}", self.prefix) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Location, &'static str> {
        text.parse().map_err(|error: LocationError| error.rule)
    }

    #[test]
    fn places_are_written_as_they_are_read() {
        for text in ["s3://orders/broker-a/x", "s3://orders", "gs://a/b", "az://c/d", "file:///var/lib/m", "memory:"] {
            assert_eq!(parse(text).map(|location| location.to_string()), Ok(text.to_owned()));
        }
        assert_eq!(parse("s3://orders/a/").map(|location| location.prefix), Ok("a".to_owned()));
    }

    #[test]
    fn what_names_no_place_is_refused_with_the_rule() {
        for text in [
            "",
            "orders",
            "s3:/x",
            "http://x/y",
            "s3://",
            "s3:///x",
            "s3://a//b",
            "s3://a/../b",
            "s3://key:secret@a/b",
            "s3://a?x=y",
            "file://relative",
            "file:///a/../b",
            "s3://a/\n",
        ] {
            assert!(parse(text).is_err(), "{text:?}");
        }
    }
}
