//! TLS with a certificate from files.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::sys::read_regular;

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Tls {
    /// The TLS certificate, followed by its intermediate certificates, as PEM
    #[arg(long, value_name = "FILE", requires = "tls_key", required = false)]
    tls_cert: PathBuf,
    /// The private key of the certificate, as PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert", required = false)]
    tls_key: PathBuf,
}

impl Tls {
    /// Returns an acceptor of connections; the error names the file.
    pub(super) fn acceptor(&self) -> Result<TlsAcceptor, String> {
        let in_file = |file: &Path, problem: String| format!("`{}`: {problem}", file.display());
        let text =
            |file: &Path| read_regular(file).map_err(|error| in_file(file, error.to_string()));
        let chain = CertificateDer::pem_slice_iter(&text(&self.tls_cert)?)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| in_file(&self.tls_cert, error.to_string()))?;
        if chain.is_empty() {
            let problem = "expected a certificate as PEM".into();
            return Err(in_file(&self.tls_cert, problem));
        }
        let key = PrivateKeyDer::from_pem_slice(&text(&self.tls_key)?)
            .map_err(|error| in_file(&self.tls_key, error.to_string()))?;
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_no_client_auth()
            .with_single_cert(chain, key);
        let mut config = config.map_err(|error| in_file(&self.tls_cert, error.to_string()))?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(TlsAcceptor::from(Arc::new(config)))
    }
}
