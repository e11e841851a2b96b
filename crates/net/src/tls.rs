//! The certificate of a listener: given as PEM files, or made on first start and kept.

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where the certificate comes from.
#[derive(Clone, Debug)]
pub enum TlsOptions {
    /// Made on first start and kept in this folder as `certificate.pem` and `key.pem` (mode 0600). Good enough for
    /// clients that do not check certificates, which is the default of the Java, Go, C# and C++ ones.
    SelfSigned {
        /// The folder; created if missing.
        folder: PathBuf,
        /// Names and addresses the certificate is for, besides `localhost` and loopback.
        names: Vec<String>,
    },
    /// PEM files of the user.
    Files {
        /// The certificate, then its chain.
        certificate: PathBuf,
        /// Its private key (PKCS#8, PKCS#1 or SEC1).
        key: PathBuf,
    },
}

/// Why no certificate could be loaded.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file or folder could not be read or written.
    #[error("{path}: {source}", path = path.display())]
    File {
        /// Its path.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file is not PEM, or holds nothing of the kind that is needed.
    #[error("{path}: {reason}", path = path.display())]
    Pem {
        /// Its path.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Certificate and key do not go together, or are of a kind that TLS cannot use.
    #[error("certificate and key cannot be used: {0}")]
    Rustls(#[from] rustls::Error),
    /// Making a certificate failed.
    #[error("making a certificate failed: {0}")]
    Generate(#[from] rcgen::Error),
}

/// Loads or makes the certificate. `alpn` lists the protocols that are offered, in order of preference.
pub fn load(options: &TlsOptions, alpn: &[&[u8]]) -> Result<Arc<ServerConfig>, TlsError> {
    let (certificate, key) = match options {
        TlsOptions::Files { certificate, key } => (certificate.clone(), key.clone()),
        TlsOptions::SelfSigned { folder, names } => self_signed(folder, names)?,
    };
    let pem = |path: &Path, reason: String| TlsError::Pem { path: path.to_owned(), reason };
    let chain = CertificateDer::pem_slice_iter(&read(&certificate)?)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| pem(&certificate, error.to_string()))?;
    if chain.is_empty() {
        return Err(pem(&certificate, "holds no certificate".into()));
    }
    let key_der = PrivateKeyDer::from_pem_slice(&read(&key)?).map_err(|error| pem(&key, error.to_string()))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key_der)?;
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    Ok(Arc::new(config))
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    fs::read(path).map_err(|source| TlsError::File { path: path.to_owned(), source })
}

fn self_signed(folder: &Path, names: &[String]) -> Result<(PathBuf, PathBuf), TlsError> {
    let (certificate, key) = (folder.join("certificate.pem"), folder.join("key.pem"));
    if certificate.exists() && key.exists() {
        return Ok((certificate, key));
    }
    let file = |path: &Path| {
        let path = path.to_owned();
        move |source| TlsError::File { path, source }
    };
    fs::create_dir_all(folder).map_err(file(folder))?;
    let mut subjects = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
    subjects.extend(names.iter().cloned());
    let made = rcgen::generate_simple_self_signed(subjects)?;
    // The key first: a folder with a certificate is a folder with its key.
    write(&key, &made.signing_key.serialize_pem(), 0o600).map_err(file(&key))?;
    write(&certificate, &made.cert.pem(), 0o644).map_err(file(&certificate))?;
    Ok((certificate, key))
}

/// Writes a file so that it is there whole or not at all.
fn write(path: &Path, text: &str, mode: u32) -> std::io::Result<()> {
    let partial = path.with_extension("partial");
    // A leftover of an earlier try may have a wider mode.
    match fs::remove_file(&partial) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&partial)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&partial, path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_certificate_is_made_once_and_its_key_is_private() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("tls");
        let options = TlsOptions::SelfSigned { folder: folder.clone(), names: vec!["broker.example".into()] };
        let config = load(&options, &[b"h2"]).unwrap();
        assert_eq!(config.alpn_protocols, [b"h2".to_vec()]);
        let first = fs::read(folder.join("certificate.pem")).unwrap();
        assert_eq!(fs::metadata(folder.join("key.pem")).unwrap().permissions().mode() & 0o777, 0o600);
        load(&options, &[b"h2"]).unwrap();
        assert_eq!(fs::read(folder.join("certificate.pem")).unwrap(), first);

        let empty = folder.join("empty.pem");
        fs::write(&empty, "nothing").unwrap();
        let files = TlsOptions::Files { certificate: empty.clone(), key: folder.join("key.pem") };
        assert!(matches!(load(&files, &[]), Err(TlsError::Pem { path, .. }) if path == empty));
    }
}
