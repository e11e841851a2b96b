//! A folder of the operating system.

use super::{Disk, DiskError, DiskErrorKind, DiskFile, DiskResult, Space};
use rustix::fs::{FallocateFlags, FlockOperation};
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, IoSlice, Read, Seek, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Name of the lock file; it holds the number of the process that has the folder.
const LOCK: &str = "lock";

/// What statfs calls ext4 and XFS.
const IN_PLACE: [u64; 2] = [0xef53, 0x5846_5342];

pub(crate) struct RealDisk {
    folder: PathBuf,
    directory: File,
    written: Arc<AtomicU64>,
    lock: Mutex<Option<File>>,
}

pub(crate) struct RealFile {
    file: File,
    name: String,
    written: Arc<AtomicU64>,
}

fn failed(operation: &'static str, file: &str, position: u64, cause: std::io::Error) -> DiskError {
    let kind = match cause.kind() {
        ErrorKind::NotFound => DiskErrorKind::NotFound,
        ErrorKind::AlreadyExists => DiskErrorKind::Exists,
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => DiskErrorKind::Full,
        _ => DiskErrorKind::Other,
    };
    DiskError { kind, operation, file: file.to_owned(), position, cause: cause.to_string() }
}

impl RealDisk {
    /// Opens the folder and makes it if it is missing.
    pub(crate) fn open(folder: &Path) -> DiskResult<Self> {
        let name = folder.display().to_string();
        let fail = |operation| move |cause: std::io::Error| failed(operation, &name, 0, cause);
        std::fs::create_dir_all(folder).map_err(fail.clone()("create"))?;
        // The folder's own name must survive as well as what is in it.
        if let Some(parent) = folder.canonicalize().ok().as_deref().and_then(Path::parent)
            && let Ok(parent) = File::open(parent)
        {
            parent.sync_all().map_err(fail.clone()("fsync of the parent"))?;
        }
        let directory = File::open(folder).map_err(fail("open"))?;
        Ok(Self { folder: folder.to_owned(), directory, written: Arc::default(), lock: Mutex::new(None) })
    }

    fn wrap(&self, name: &str, file: File) -> RealFile {
        RealFile { file, name: name.to_owned(), written: self.written.clone() }
    }
}

impl Disk for RealDisk {
    type File = RealFile;

    fn lock(&self) -> DiskResult<()> {
        let fail = |cause| failed("lock", LOCK, 0, cause);
        let path = self.folder.join(LOCK);
        let mut file =
            OpenOptions::new().create(true).truncate(false).read(true).write(true).open(path).map_err(fail)?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut text = String::new();
                // Only a help for the reader of the message; the lock itself has spoken.
                let _ = file.read_to_string(&mut text);
                let mut error = fail(std::io::Error::from(ErrorKind::WouldBlock));
                error.kind = DiskErrorKind::Locked(text.trim().parse().ok());
                return Err(error);
            }
            Err(errno) => return Err(fail(errno.into())),
        }
        file.set_len(0).map_err(fail)?;
        file.rewind().map_err(fail)?;
        file.write_all(format!("{}\n", std::process::id()).as_bytes()).map_err(fail)?;
        *self.lock.lock().unwrap_or_else(PoisonError::into_inner) = Some(file);
        Ok(())
    }

    fn create(&self, name: &str) -> DiskResult<RealFile> {
        let file = OpenOptions::new().create_new(true).read(true).write(true).open(self.folder.join(name));
        Ok(self.wrap(name, file.map_err(|cause| failed("create", name, 0, cause))?))
    }

    fn open(&self, name: &str) -> DiskResult<RealFile> {
        let file = OpenOptions::new().read(true).write(true).open(self.folder.join(name));
        Ok(self.wrap(name, file.map_err(|cause| failed("open", name, 0, cause))?))
    }

    fn list(&self) -> DiskResult<Vec<(String, u64)>> {
        let name = self.folder.display().to_string();
        let fail = |cause| failed("list", &name, 0, cause);
        let mut files = Vec::new();
        for entry in std::fs::read_dir(&self.folder).map_err(fail)? {
            let entry = entry.map_err(fail)?;
            let metadata = entry.metadata().map_err(fail)?;
            if let (true, Ok(name)) = (metadata.is_file(), entry.file_name().into_string()) {
                files.push((name, metadata.len()));
            }
        }
        files.sort();
        Ok(files)
    }

    fn rename(&self, from: &str, to: &str) -> DiskResult<()> {
        std::fs::rename(self.folder.join(from), self.folder.join(to)).map_err(|cause| failed("rename", from, 0, cause))
    }

    fn remove(&self, name: &str) -> DiskResult<()> {
        std::fs::remove_file(self.folder.join(name)).map_err(|cause| failed("remove", name, 0, cause))
    }

    fn sync_dir(&self) -> DiskResult<()> {
        self.directory
            .sync_all()
            .map_err(|cause| failed("fsync of the folder", &self.folder.display().to_string(), 0, cause))
    }

    fn space(&self) -> DiskResult<Space> {
        let stat = rustix::fs::fstatvfs(&self.directory)
            .map_err(|errno| failed("statvfs", &self.folder.display().to_string(), 0, errno.into()))?;
        // As `df` counts, so that a disk on which nothing more can be written is full.
        let used = stat.f_blocks.saturating_sub(stat.f_bfree);
        Ok(Space { total: (used + stat.f_bavail) * stat.f_frsize, free: stat.f_bavail * stat.f_frsize })
    }

    fn overwrites_in_place(&self) -> bool {
        // Those that copy on write (Btrfs, ZFS) gain nothing, and what is not known is left alone.
        rustix::fs::fstatfs(&self.directory).is_ok_and(|stat| IN_PLACE.contains(&(stat.f_type as u64)))
    }

    fn written_bytes(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }
}

impl DiskFile for RealFile {
    fn read_at(&self, position: u64, into: &mut [u8]) -> DiskResult<usize> {
        let mut done = 0;
        while done < into.len() {
            match self.file.read_at(&mut into[done..], position + done as u64) {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(cause) if cause.kind() == ErrorKind::Interrupted => {}
                Err(cause) => return Err(failed("read", &self.name, position, cause)),
            }
        }
        Ok(done)
    }

    fn write_at(&self, position: u64, parts: &[&[u8]]) -> DiskResult<()> {
        let mut slices: Vec<IoSlice<'_>> = parts.iter().map(|part| IoSlice::new(part)).collect();
        let mut rest = &mut slices[..];
        IoSlice::advance_slices(&mut rest, 0);
        let mut at = position;
        while !rest.is_empty() {
            match rustix::io::pwritev(&self.file, rest, at) {
                Ok(0) => return Err(failed("write", &self.name, at, ErrorKind::WriteZero.into())),
                Ok(count) => {
                    self.written.fetch_add(count as u64, Ordering::Relaxed);
                    at += count as u64;
                    IoSlice::advance_slices(&mut rest, count);
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(failed("write", &self.name, at, errno.into())),
            }
        }
        Ok(())
    }

    fn sync_data(&self) -> DiskResult<()> {
        self.file.sync_data().map_err(|cause| failed("fdatasync", &self.name, 0, cause))
    }

    fn preallocate(&self, length: u64) -> DiskResult<()> {
        match rustix::fs::fallocate(&self.file, FallocateFlags::empty(), 0, length) {
            Ok(()) => Ok(()),
            // File systems without it: the length alone has to do, space is then found (or not) at each write.
            Err(rustix::io::Errno::OPNOTSUPP) => {
                self.file.set_len(length).map_err(|cause| failed("ftruncate", &self.name, length, cause))
            }
            Err(errno) => Err(failed("fallocate", &self.name, length, errno.into())),
        }
    }

    fn truncate(&self, length: u64) -> DiskResult<()> {
        self.file.set_len(length).map_err(|cause| failed("ftruncate", &self.name, length, cause))
    }

    fn length(&self) -> DiskResult<u64> {
        Ok(self.file.metadata().map_err(|cause| failed("stat", &self.name, 0, cause))?.len())
    }
}
