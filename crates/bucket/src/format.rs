//! What a place says about how it was written: one object, `format.json`, created with the first opening.
//!
//! | field | meaning |
//! | --- | --- |
//! | `format` | version of the layout under the prefix, counted from 1 |
//! | `slatedb` | version of SlateDB whose formats the databases have |
//!
//! SlateDB's formats are compatible between neighbouring versions only, so a version this build does not name is refused
//! rather than tried. A build that can write a newer one replaces the object after it has opened every database once.

use crate::{Bucket, BucketError};
use object_store::path::Path;
use object_store::{PutMode, PutOptions};
use serde::{Deserialize, Serialize};

/// The layout this build writes.
pub const FORMAT_VERSION: u64 = 1;
/// The SlateDB this build is made with.
pub const SLATEDB_VERSION: &str = "0.18.0";
/// Versions whose databases this build opens.
const SLATEDB_READABLE: [&str; 1] = [SLATEDB_VERSION];
/// Its name.
pub const OBJECT: &str = "format.json";

/// The object's content. Unknown fields are ignored: what matters has a version of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Format {
    format: u64,
    slatedb: String,
}

/// Reads the format, or writes it into an empty place. True if it was written.
pub async fn check_or_create(bucket: &Bucket) -> Result<bool, BucketError> {
    let path = bucket.path(OBJECT);
    let ours = Format { format: FORMAT_VERSION, slatedb: SLATEDB_VERSION.to_owned() };
    match read(bucket, &path).await? {
        Some(found) => check(bucket, &found).map(|()| false),
        None => {
            let bytes = serde_json::to_vec_pretty(&ours).map_err(|error| damaged(bucket, error.to_string()))?;
            let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
            match bucket.store().put_opts(&path, bytes.into(), options).await {
                Ok(_) => Ok(true),
                // Somebody else opened it at the same time.
                Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => {
                    match read(bucket, &path).await? {
                        Some(found) => check(bucket, &found).map(|()| false),
                        None => Err(damaged(bucket, "it vanished while it was read".to_owned())),
                    }
                }
                Err(error) => Err(bucket.refused("put", &path, &error)),
            }
        }
    }
}

async fn read(bucket: &Bucket, path: &Path) -> Result<Option<Format>, BucketError> {
    let Some(bytes) = bucket.content(path).await? else { return Ok(None) };
    serde_json::from_slice(&bytes).map(Some).map_err(|error| damaged(bucket, error.to_string()))
}

fn check(bucket: &Bucket, found: &Format) -> Result<(), BucketError> {
    let refuse = |what, found: String, known: String| {
        let (location, object) = (bucket.location().to_string(), OBJECT.to_owned());
        Err(BucketError::Format { location, object, what, found, known })
    };
    if found.format == 0 || found.format > FORMAT_VERSION {
        return refuse("format version", found.format.to_string(), format!("1 to {FORMAT_VERSION}"));
    }
    if !SLATEDB_READABLE.contains(&found.slatedb.as_str()) {
        return refuse("SlateDB version", found.slatedb.clone(), SLATEDB_READABLE.join(", "));
    }
    Ok(())
}

fn damaged(bucket: &Bucket, cause: String) -> BucketError {
    BucketError::Damaged { location: bucket.location().to_string(), object: OBJECT.to_owned(), cause }
}
