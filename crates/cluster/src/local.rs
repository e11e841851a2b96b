//! The catalog in a folder: one file per version, `0000000012.json`.
//!
//! A version is written to a temporary file, synced, linked to its name without replacing, and the folder is synced. So
//! a name either has all of its bytes or does not exist, and of two writers one gets the name.

use crate::{CatalogStore, CreateError, ReadError, VERSIONS_KEPT};
use bytes::Bytes;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// How often `latest` looks again when the version it found was pruned meanwhile.
const READ_TRIES: u32 = 5;

/// Versions in one folder of the local disk.
#[derive(Clone, Debug)]
pub struct LocalCatalogStore {
    folder: Arc<PathBuf>,
    temporary: Arc<AtomicU64>,
}

impl LocalCatalogStore {
    /// Uses `folder`, created if it is missing. Temporary files that a crash left behind are removed.
    ///
    /// The folder belongs to one process; a lock on the data folder around it is the caller's affair.
    pub fn open(folder: &Path) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        if let Some(parent) = folder.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            File::open(parent)?.sync_all()?;
        }
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "tmp") {
                fs::remove_file(path)?;
            }
        }
        Ok(Self { folder: Arc::new(folder.to_owned()), temporary: Arc::default() })
    }

    fn path(&self, version: u64) -> PathBuf {
        self.folder.join(format!("{version:010}.json"))
    }

    /// All versions, oldest first.
    fn versions(&self) -> io::Result<Vec<u64>> {
        let mut versions = Vec::new();
        for entry in fs::read_dir(&*self.folder)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "json")
                && let Some(stem) = path.file_stem().and_then(|stem| stem.to_str())
                && let Ok(version) = stem.parse()
            {
                versions.push(version);
            }
        }
        versions.sort_unstable();
        Ok(versions)
    }

    fn read_latest(&self) -> Result<Option<(u64, Bytes)>, ReadError> {
        let mut tries = READ_TRIES;
        loop {
            let failed = |path: PathBuf, error: io::Error| ReadError {
                location: path.display().to_string(),
                reason: error.to_string(),
            };
            let versions = self.versions().map_err(|error| failed(self.folder.to_path_buf(), error))?;
            let Some(&version) = versions.last() else { return Ok(None) };
            match fs::read(self.path(version)) {
                Ok(bytes) => return Ok(Some((version, bytes.into()))),
                // Newer versions came and this one was pruned between listing and reading.
                Err(error) if error.kind() == ErrorKind::NotFound && tries > 1 => tries -= 1,
                Err(error) => return Err(failed(self.path(version), error)),
            }
        }
    }

    fn write(&self, version: u64, bytes: &[u8]) -> io::Result<()> {
        let number = self.temporary.fetch_add(1, Ordering::Relaxed);
        let temporary = self.folder.join(format!("{version:010}-{number}.tmp"));
        let published = write_synced(&temporary, bytes).and_then(|()| publish(&temporary, &self.path(version)));
        // Gone already where it was renamed. One that stays is removed at the next start.
        let _ = fs::remove_file(&temporary);
        published?;
        File::open(&*self.folder)?.sync_all()?;
        self.prune();
        Ok(())
    }

    /// Removes all but the newest versions. A file that cannot be removed costs space only, so it is logged and left.
    fn prune(&self) {
        let Ok(versions) = self.versions() else { return };
        for version in versions.iter().rev().skip(VERSIONS_KEPT) {
            let path = self.path(*version);
            if let Err(error) = fs::remove_file(&path)
                && error.kind() != ErrorKind::NotFound
            {
                tracing::warn!(file = %path.display(), %error, "cannot remove an old version of the catalog");
            }
        }
    }
}

fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Gives a file its name unless the name is taken. File systems without hard links rename instead.
fn publish(temporary: &Path, path: &Path) -> io::Result<()> {
    match fs::hard_link(temporary, path) {
        Err(error) if matches!(error.kind(), ErrorKind::Unsupported | ErrorKind::PermissionDenied) => {
            use rustix::fs::{CWD, RenameFlags, renameat_with};
            Ok(renameat_with(CWD, temporary, CWD, path, RenameFlags::NOREPLACE)?)
        }
        other => other,
    }
}

/// Runs blocking work beside the runtime; in place where there is none, as while a broker opens.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    match tokio::runtime::Handle::try_current() {
        Ok(runtime) => runtime.spawn_blocking(work).await.map_err(io::Error::other),
        Err(_) => Ok(work()),
    }
}

impl CatalogStore for LocalCatalogStore {
    async fn latest(&self) -> Result<Option<(u64, Bytes)>, ReadError> {
        let store = self.clone();
        let location = self.folder.display().to_string();
        let read = blocking(move || store.read_latest()).await;
        read.unwrap_or_else(|error| Err(ReadError { location, reason: error.to_string() }))
    }

    async fn create(&self, version: u64, bytes: Bytes) -> Result<(), CreateError> {
        let store = self.clone();
        let written = blocking(move || store.write(version, &bytes)).await;
        match written.unwrap_or_else(Err) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Err(CreateError::Exists { version }),
            Err(error) => Err(CreateError::Io { location: self.location(version), reason: error.to_string() }),
        }
    }

    fn location(&self, version: u64) -> String {
        self.path(version).display().to_string()
    }
}
