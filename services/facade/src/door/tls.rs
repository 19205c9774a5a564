//! Encrypted connections.

use std::path::Path;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::watched::{Watched, read};
use super::{DoorError, TlsConfig};

/// What connections are encrypted with, as the files have it.
pub(super) type Tls = Watched<ServerConfig>;

/// Reads certificate and key; nothing when neither is set.
///
/// # Errors
/// [`DoorError::Read`], [`DoorError::Content`], [`DoorError::Certificate`].
pub(super) fn open(config: &TlsConfig) -> Result<Option<Tls>, DoorError> {
    let (Some(certificate), Some(key)) = (&config.certificate, &config.key) else { return Ok(None) };
    Watched::open(vec![certificate.clone(), key.clone()], |paths| server_config(&paths[0], &paths[1]))
        .map(Some)
}

fn server_config(certificate: &Path, key: &Path) -> Result<ServerConfig, DoorError> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read(certificate)?).collect();
    let chain = chain.ok().filter(|chain| !chain.is_empty());
    let chain = chain.ok_or_else(|| DoorError::Content {
        path: certificate.to_owned(),
        what: "holds no certificate in PEM".to_owned(),
    })?;
    let private = PrivateKeyDer::from_pem_slice(&read(key)?).map_err(|_| DoorError::Content {
        path: key.to_owned(),
        what: "holds no private key in PEM".to_owned(),
    })?;
    let refused = |source| DoorError::Certificate { path: certificate.to_owned(), source };
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.map_err(refused)?.with_no_client_auth();
    let mut config = builder.with_single_cert(chain, private).map_err(refused)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}
