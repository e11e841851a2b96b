//! Small objects that say something about a whole place.

use crate::{Bucket, BucketError};
use bytes::Bytes;
use futures_util::TryStreamExt;
use object_store::path::Path;
use object_store::{Error, ObjectStoreExt};

impl Bucket {
    /// The text of an object; `None` if it does not exist. Blocks, as all here do.
    pub fn text(&self, name: &str) -> Result<Option<String>, BucketError> {
        let path = self.path(name);
        let content = self.runtime().block_on(self.content(&path))?;
        Ok(content.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
    }

    /// All of an object; `None` if it does not exist.
    pub(crate) async fn content(&self, path: &Path) -> Result<Option<Bytes>, BucketError> {
        let answer = match self.store().get(path).await {
            Ok(answer) => answer.bytes().await,
            Err(error) => Err(error),
        };
        match answer {
            Ok(bytes) => Ok(Some(bytes)),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(self.refused("get", path, &error)),
        }
    }

    /// Makes a text the content of an object.
    pub fn put_text(&self, name: &str, text: &str) -> Result<(), BucketError> {
        let path = self.path(name);
        let put = self.runtime().block_on(self.store().put(&path, text.to_owned().into()));
        put.map(drop).map_err(|error| self.refused("put", &path, &error))
    }

    /// Removes an object; one that does not exist is removed already.
    pub fn remove(&self, name: &str) -> Result<(), BucketError> {
        let path = self.path(name);
        match self.runtime().block_on(self.store().delete(&path)) {
            Ok(()) | Err(Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(self.refused("delete", &path, &error)),
        }
    }

    /// Whether there is any object below a folder.
    pub fn holds_any(&self, folder: &str) -> Result<bool, BucketError> {
        let path = self.path(folder);
        let first = self.runtime().block_on(self.store().list(Some(&path)).try_next());
        first.map(|object| object.is_some()).map_err(|error| self.refused("list", &path, &error))
    }
}
