//! Does the place do what the store rests on?

use crate::{Bucket, BucketError};
use futures_util::StreamExt;
use object_store::{ObjectStoreExt, PutMode, PutOptions};

/// Puts an object, puts it again only if it is absent, reads, lists and deletes it.
///
/// Every opening does this, under a name of its own: rights can be taken away, and a bucket can be replaced.
pub(crate) async fn check(bucket: &Bucket, name: &str) -> Result<(), BucketError> {
    let path = bucket.path(&format!("checks/{name}"));
    let store = bucket.store();
    let create = || PutOptions { mode: PutMode::Create, ..PutOptions::default() };
    let content = "This is there for a moment only, to see whether the store can be written.\n";
    match store.put_opts(&path, content.into(), create()).await {
        Ok(_) => {}
        Err(object_store::Error::NotImplemented { .. }) => return Err(no_conditions(bucket, path.as_ref())),
        Err(error) => return Err(bucket.refused("put", &path, &error)),
    }
    let outcome = beyond_the_first_put(bucket, &path, create()).await;
    let deleted = store.delete(&path).await;
    outcome?;
    deleted.map_err(|error| bucket.refused("delete", &path, &error))
}

async fn beyond_the_first_put(
    bucket: &Bucket,
    path: &object_store::path::Path,
    create: PutOptions,
) -> Result<(), BucketError> {
    let store = bucket.store();
    match store.put_opts(path, "Twice.\n".into(), create).await {
        Ok(_) => return Err(no_conditions(bucket, path.as_ref())),
        Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => {}
        Err(error) => return Err(bucket.refused("put if absent", path, &error)),
    }
    let got = match store.get(path).await {
        Ok(answer) => answer.bytes().await,
        Err(error) => Err(error),
    };
    got.map_err(|error| bucket.refused("get", path, &error))?;
    let folder = bucket.path("checks");
    let listed = store.list(Some(&folder)).next().await;
    match listed {
        Some(Ok(_)) => Ok(()),
        Some(Err(error)) => Err(bucket.refused("list", &folder, &error)),
        None => Err(BucketError::Refused {
            location: bucket.location().to_string(),
            operation: "list",
            object: folder.to_string(),
            cause: "an object that was just written is not listed".to_owned(),
        }),
    }
}

fn no_conditions(bucket: &Bucket, object: &str) -> BucketError {
    BucketError::NoConditionalWrites { location: bucket.location().to_string(), object: object.to_owned() }
}
