//! The server's own certificate for HTTPS, read again when its files change: as an ACME client leaves them.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::SystemTime;

use anyhow::{Context, Result};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

/// Certificate and key, and the files that they come from.
#[derive(Debug)]
pub struct Files {
    certificate: PathBuf,
    key: PathBuf,
    current: RwLock<(Arc<CertifiedKey>, Stamp)>,
}

/// When each of the files was last changed.
type Stamp = [Option<SystemTime>; 2];

impl Files {
    /// # Errors
    /// Files that cannot be read, or do not belong together.
    pub fn load(certificate: &Path, key: &Path) -> Result<Arc<Self>> {
        let stamp = stamp(certificate, key);
        let current = RwLock::new((Arc::new(read(certificate, key)?), stamp));
        Ok(Arc::new(Self { certificate: certificate.to_owned(), key: key.to_owned(), current }))
    }

    /// Reads files that have changed. Whether there are new ones; bad ones leave the old in place.
    ///
    /// # Errors
    /// Files that cannot be read, or do not belong together.
    pub fn reload(&self) -> Result<bool> {
        let found = stamp(&self.certificate, &self.key);
        if self.current.read().unwrap_or_else(PoisonError::into_inner).1 == found {
            return Ok(false);
        }
        let fresh = Arc::new(read(&self.certificate, &self.key)?);
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = (fresh, found);
        Ok(true)
    }

    /// What connections are accepted with.
    ///
    /// # Errors
    /// If the library lacks what it needs.
    pub fn config(self: &Arc<Self>) -> Result<rustls::ServerConfig> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(self) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(config)
    }
}

impl ResolvesServerCert for Files {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner).0))
    }
}

fn stamp(certificate: &Path, key: &Path) -> Stamp {
    [certificate, key].map(|file| std::fs::metadata(file).and_then(|metadata| metadata.modified()).ok())
}

fn read(certificate: &Path, key: &Path) -> Result<CertifiedKey> {
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect)
        .with_context(|| format!("cannot read certificates from {}", certificate.display()))?;
    let private = PrivateKeyDer::from_pem_file(key)
        .with_context(|| format!("cannot read a key from {}", key.display()))?;
    CertifiedKey::from_der(chain, private, &rustls::crypto::aws_lc_rs::default_provider())
        .with_context(|| format!("{} and {} do not belong together", certificate.display(), key.display()))
}
