//! A copy of everything that a stopped broker keeps, in another place: to move it from a folder into a bucket or back, or to
//! have a backup.
//!
//! The place says `copying-from` until the copy is whole: until then no broker opens it. A copy that was cut off goes on
//! where it stopped. The catalog comes last.

use crate::options::{BrokerOptions, BucketPlace, OpenError};
use crate::places::{self, COPYING, Opened, SHARD};
use crate::runtime::block_on;
use martlet_bucket::{Bucket, Location};
use martlet_cluster::{CatalogStore, CreateError};
use martlet_store::copy::{self, Portions};
use martlet_store::{Batch, Room, Shortage, Store, StoreFailure, Ticket};
use std::fmt::{Display, Formatter};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

pub use martlet_store::copy::Amount;

/// A store that says nothing is looked at so often.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Where a broker keeps everything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A data folder.
    Folder(PathBuf),
    /// A bucket, or a folder in its stead.
    Bucket(Location),
}

impl FromStr for Place {
    type Err = String;

    /// A location with a scheme, such as `s3://BUCKET/PREFIX`, else a folder.
    fn from_str(text: &str) -> Result<Self, String> {
        if text.contains("://") {
            text.parse().map(Self::Bucket).map_err(|error: martlet_bucket::LocationError| error.to_string())
        } else if text.is_empty() {
            Err("a place is a folder or a location such as s3://BUCKET/PREFIX".to_owned())
        } else {
            Ok(Self::Folder(text.into()))
        }
    }
}

impl Display for Place {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Folder(folder) => folder.display().fmt(f),
            Self::Bucket(location) => location.fmt(f),
        }
    }
}

/// How far a copy is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Messages that were missing when this copy began, at most.
    pub missing: u64,
    /// What was copied so far.
    pub copied: Amount,
}

/// Why a copy did not come about.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// There is nothing to copy.
    #[error("{place} holds no broker's data")]
    Nothing {
        /// The source.
        place: String,
    },
    /// The target has something already.
    #[error(
        "{place} is not empty; a copy needs an empty place, or an unfinished copy of the same source to go on with"
    )]
    NotEmpty {
        /// The target.
        place: String,
    },
    /// The target has an unfinished copy of something else.
    #[error("{place} holds an unfinished copy of {from}, not of {wanted}")]
    OfAnother {
        /// The target.
        place: String,
        /// What it is a copy of.
        from: String,
        /// What was to be copied.
        wanted: String,
    },
    /// A place cannot be opened.
    #[error("{place}: {error}")]
    Open {
        /// The place.
        place: String,
        /// Why.
        error: Box<OpenError>,
    },
    /// Reading or writing failed.
    #[error(transparent)]
    Store(#[from] copy::CopyError),
    /// The catalog cannot be read or written.
    #[error("copying the catalog: {0}")]
    Catalog(String),
}

/// Copies all of `from` to `to`. Takes both over from whoever has them in a bucket; a folder in use is refused. `progress` is
/// told before the first message, and with every batch. Blocks.
///
/// # Errors
/// See [`CopyError`]; what was copied stays, and the next attempt goes on from there.
pub fn copy(from: &Place, to: &Place, mut progress: impl FnMut(Progress)) -> Result<Amount, CopyError> {
    let wrong = |place: &Place| {
        let place = place.to_string();
        move |error: OpenError| CopyError::Open { place, error: Box::new(error) }
    };
    // A source that is given as a relative path is the same tomorrow, from elsewhere too.
    let from = &absolute(from);
    let (source, recovery, source_catalog) = open_source(from, wake_this_thread())?;
    let (mut target, _, target_catalog) = open_target(to, from, wake_this_thread())?;
    let (read_from, read_to) = (source.reader(), target.reader());
    let missing = block_on(copy::missing(&read_from, &read_to))?.messages;
    progress(Progress { missing, copied: Amount::default() });
    let told = |copied| progress(Progress { missing, copied });
    let mut last = Ticket(0);
    let hand_over = async |batch: Batch| {
        await_ready(&target)?;
        last = target.commit(batch);
        Ok(())
    };
    let copying = copy::copy(&read_from, &read_to, recovery.last_time, Portions::default(), hand_over, told);
    let copied = block_on(copying)?;
    while target.progress().durable < last {
        check(target.progress().failed)?;
        std::thread::park_timeout(LOOK_EVERY);
    }
    drop(read_to);
    check(target.close().failed)?;
    let catalog = |error: &dyn Display| CopyError::Catalog(error.to_string());
    if let Some((version, bytes)) = block_on(source_catalog.latest()).map_err(|error| catalog(&error))? {
        match block_on(target_catalog.create(version, bytes)) {
            // From an attempt that ended after this.
            Ok(()) | Err(CreateError::Exists { .. }) => {}
            Err(error) => return Err(catalog(&error)),
        }
    }
    finish(to).map_err(wrong(to))?;
    drop(read_from);
    source.close();
    Ok(copied)
}

fn absolute(place: &Place) -> Place {
    match place {
        Place::Folder(folder) => Place::Folder(std::path::absolute(folder).unwrap_or_else(|_| folder.clone())),
        Place::Bucket(location) => Place::Bucket(location.clone()),
    }
}

fn wake_this_thread() -> places::Waker {
    let thread = std::thread::current();
    Arc::new(move || thread.unpark())
}

/// Waits until a batch can be handed over.
fn await_ready<S: Store>(target: &S) -> Result<(), copy::CopyError> {
    while !target.ready() {
        check(target.progress().failed)?;
        std::thread::park_timeout(LOOK_EVERY);
    }
    match target.room() {
        Room::OnlyProgress(Shortage::DiskFull { free, needed }) => {
            Err(copy::CopyError::Write(format!("the file system has {free} bytes free, less than {needed}")))
        }
        _ => check(target.progress().failed),
    }
}

fn check(failed: Option<Arc<StoreFailure>>) -> Result<(), copy::CopyError> {
    failed.map_or(Ok(()), |failure| Err(copy::CopyError::Write(failure.to_string())))
}

fn bucket_place(location: &Location) -> BucketPlace {
    // Each batch is large, and the next one waits for it.
    BucketPlace { flush_interval: Duration::ZERO, ..BucketPlace::new(location.clone()) }
}

fn open_source(from: &Place, waker: places::Waker) -> Result<Opened, CopyError> {
    let nothing = || CopyError::Nothing { place: from.to_string() };
    let folder = match from {
        Place::Folder(folder) => Some(folder.as_path()),
        Place::Bucket(location) => location.folder(),
    };
    // Opening would make it.
    if folder.is_some_and(|folder| !folder.join(SHARD).exists()) {
        return Err(nothing());
    }
    let options = match from {
        Place::Folder(folder) => BrokerOptions::new(folder),
        Place::Bucket(location) => {
            let place = bucket_place(location);
            let bucket = places::open_bucket(&place).map_err(|error| opening(from, error))?;
            let empty = bucket.holds_any(SHARD).map(|any| !any);
            if empty.map_err(|error| opening(from, error.into()))? {
                if bucket.created() {
                    bucket.remove(martlet_bucket::format::OBJECT).map_err(|error| opening(from, error.into()))?;
                }
                return Err(nothing());
            }
            BrokerOptions { bucket: Some(place), ..BrokerOptions::new("") }
        }
    };
    places::open(&options, waker).map_err(|error| opening(from, error))
}

fn opening(place: &Place, error: OpenError) -> CopyError {
    CopyError::Open { place: place.to_string(), error: Box::new(error) }
}

fn open_target(to: &Place, from: &Place, waker: places::Waker) -> Result<Opened, CopyError> {
    let opened = match to {
        Place::Folder(folder) => {
            let begun = begin_in_folder(folder, &from.to_string());
            if !begun.map_err(|error| opening(to, error))? {
                return Err(not_ours(to, from, places::folder_copied_from(folder)));
            }
            places::in_folder(&BrokerOptions::new(folder), waker)
        }
        Place::Bucket(location) => {
            let place = bucket_place(location);
            let bucket = places::open_bucket(&place).map_err(|error| opening(to, error))?;
            if !begin_in_bucket(&bucket, &from.to_string()).map_err(|error| opening(to, error))? {
                return Err(not_ours(to, from, bucket.text(COPYING).map_err(OpenError::from)));
            }
            places::in_bucket(&place, bucket, waker)
        }
    };
    opened.map_err(|error| opening(to, error))
}

fn not_ours(to: &Place, from: &Place, copied_from: Result<Option<String>, OpenError>) -> CopyError {
    match copied_from {
        Ok(Some(of)) => CopyError::OfAnother { place: to.to_string(), from: of, wanted: from.to_string() },
        Ok(None) => CopyError::NotEmpty { place: to.to_string() },
        Err(error) => opening(to, error),
    }
}

/// Whether a copy of `from` may go on or begin here; says so in the folder.
fn begin_in_folder(folder: &Path, from: &str) -> Result<bool, OpenError> {
    let failed = |error| OpenError::Folder { folder: folder.to_owned(), error };
    match places::folder_copied_from(folder)? {
        Some(of) => Ok(of == from),
        None if folder.join(SHARD).exists() || folder.join("catalog").exists() => Ok(false),
        None => {
            fs::create_dir_all(folder).map_err(failed)?;
            write_synced(folder, from).map_err(failed)?;
            Ok(true)
        }
    }
}

fn write_synced(folder: &Path, from: &str) -> io::Result<()> {
    use std::io::Write;
    let mut file = File::create(folder.join(COPYING))?;
    file.write_all(from.as_bytes())?;
    file.sync_all()?;
    File::open(folder)?.sync_all()
}

/// The same in a bucket.
fn begin_in_bucket(bucket: &Bucket, from: &str) -> Result<bool, OpenError> {
    match bucket.text(COPYING)? {
        Some(of) => Ok(of == from),
        None if bucket.holds_any(SHARD)? || bucket.holds_any("catalog")? => Ok(false),
        None => {
            bucket.put_text(COPYING, from)?;
            Ok(true)
        }
    }
}

/// Takes the word back: it is whole.
fn finish(to: &Place) -> Result<(), OpenError> {
    match to {
        Place::Folder(folder) => {
            let failed = |error| OpenError::Folder { folder: folder.clone(), error };
            fs::remove_file(folder.join(COPYING)).map_err(failed)?;
            File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)
        }
        Place::Bucket(location) => Ok(places::open_bucket(&bucket_place(location))?.remove(COPYING)?),
    }
}
