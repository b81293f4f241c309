//! TLS of connections to other servers.

use std::path::Path;
use std::sync::Arc;

use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::error::ServeError;
use crate::sys::read_regular;

/// Returns a connector that trusts the certificate authorities in a PEM file, or else the public ones. `setting`
/// names the file in errors.
pub(super) fn connector(
    setting: &'static str,
    ca: Option<&Path>,
) -> Result<TlsConnector, ServeError> {
    let mut roots = RootCertStore::empty();
    match ca {
        None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
        Some(file) => add_certificates(&mut roots, file).map_err(|problem| ServeError::Ca {
            setting,
            file: file.to_owned(),
            problem,
        })?,
    }
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| ServeError::Tls(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

fn add_certificates(roots: &mut RootCertStore, file: &Path) -> Result<(), String> {
    let text = read_regular(file).map_err(|error| error.to_string())?;
    for certificate in CertificateDer::pem_slice_iter(&text) {
        let certificate = certificate.map_err(|error| error.to_string())?;
        roots.add(certificate).map_err(|error| error.to_string())?;
    }
    match roots.is_empty() {
        true => Err("it contains no certificate".to_owned()),
        false => Ok(()),
    }
}
