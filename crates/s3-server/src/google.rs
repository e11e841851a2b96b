//! The XML protocol of Google Cloud Storage: that of S3 with a generation for each state of an object, which conditions name.

use http::header::{AUTHORIZATION, ETAG, HeaderMap, HeaderName, HeaderValue, IF_MATCH, IF_NONE_MATCH};

static GENERATION: HeaderName = HeaderName::from_static("x-goog-generation");
static IF_GENERATION_MATCH: HeaderName = HeaderName::from_static("x-goog-if-generation-match");

/// Puts a request's conditions into the words of S3, and drops its token.
pub fn into_s3(headers: &mut HeaderMap) {
    headers.remove(AUTHORIZATION);
    let Some(generation) = headers.remove(&IF_GENERATION_MATCH) else { return };
    if generation == "0" {
        headers.insert(IF_NONE_MATCH, HeaderValue::from_static("*"));
    } else if let Ok(quoted) = HeaderValue::from_bytes(&[b"\"", generation.as_bytes(), b"\""].concat()) {
        headers.insert(IF_MATCH, quoted);
    }
}

/// Says an object's generation with its ETag, which it is here.
pub fn out_of_s3(headers: &mut HeaderMap) {
    let tag = headers.get(ETAG).and_then(|tag| tag.to_str().ok());
    if let Some(Ok(generation)) = tag.map(|tag| HeaderValue::from_str(tag.trim_matches('"'))) {
        headers.insert(GENERATION.clone(), generation);
    }
}
