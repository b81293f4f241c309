//! TLS with the semantics of libpq's `sslmode` and `sslrootcert`.

use std::fmt;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
};
use tokio_postgres::config::SslMode;

use super::server_error::unusable;
use crate::store::OpenError;
use crate::sys::read_regular;

/// URL parameter: the TLS mode.
pub(super) const MODE: &str = "sslmode";
/// URL parameter: a file with root certificates.
pub(super) const ROOT_FILE: &str = "sslrootcert";

/// The value of [`ROOT_FILE`] for the web PKI roots.
const PUBLIC: &str = "system";

/// Verification of the server's certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verified {
    Nothing,
    /// A trusted authority issued it.
    Authority,
    /// Also, it is valid for the host in the URL.
    Host,
}

/// Splits the TLS parameters of a URL between the client library and this module.
///
/// Plain text is used with `disable`, and with `prefer` if the server does not support TLS; never
/// after a TLS failure, and never with a root certificate.
pub(super) fn configured(
    mode: Option<&str>,
    root: Option<&str>,
) -> Result<(SslMode, ClientConfig), OpenError> {
    let (ssl_mode, verified) = chosen(mode, root)?;
    let provider = Arc::new(ring::default_provider());
    // Explicit: with several providers compiled in, rustls chooses none.
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(unusable)?;
    let signatures = provider.signature_verification_algorithms;
    let verifier = match verified {
        Verified::Nothing => LikeLibpq {
            chain: None,
            given: Vec::new(),
            checks_host: false,
            signatures,
        },
        Verified::Authority | Verified::Host => {
            let given = given(root)?;
            LikeLibpq {
                chain: Some(chain_verifier(&given, &provider)?),
                given,
                checks_host: verified == Verified::Host,
                signatures,
            }
        }
    };
    let config = config
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    Ok((ssl_mode, config.with_no_client_auth()))
}

fn chosen(mode: Option<&str>, root: Option<&str>) -> Result<(SslMode, Verified), OpenError> {
    let is_public = root == Some(PUBLIC);
    let default = if is_public { "verify-full" } else { "prefer" };
    let mode = mode.unwrap_or(default);
    if is_public && mode != "verify-full" {
        return Err(unusable(format!(
            "`{ROOT_FILE}={PUBLIC}` trusts every public certificate authority; use it with \
             `{MODE}=verify-full`"
        )));
    }
    Ok(match (mode, root) {
        ("disable", _) => (SslMode::Disable, Verified::Nothing),
        ("prefer", None) => (SslMode::Prefer, Verified::Nothing),
        ("require", None) => (SslMode::Require, Verified::Nothing),
        ("prefer" | "require" | "verify-ca", Some(_)) => (SslMode::Require, Verified::Authority),
        ("verify-full", _) => (SslMode::Require, Verified::Host),
        ("verify-ca", None) => {
            return Err(unusable(format!(
                "`{MODE}=verify-ca` needs the certificate of the authority: add `{ROOT_FILE}=FILE`"
            )));
        }
        // Not quoted: it may be a misplaced password.
        _ => {
            return Err(unusable(format!(
                "its `{MODE}` must be `disable`, `prefer`, `require`, `verify-ca` or `verify-full`"
            )));
        }
    })
}

/// The certificates in a file; empty for the web PKI roots.
fn given(file: Option<&str>) -> Result<Vec<CertificateDer<'static>>, OpenError> {
    let Some(file) = file.filter(|&file| file != PUBLIC) else {
        return Ok(Vec::new());
    };
    let unreadable = |why: &dyn fmt::Display| {
        unusable(format!(
            "the file `{file}` in `{ROOT_FILE}` cannot be used: {why}"
        ))
    };
    let text = read_regular(file.as_ref()).map_err(|error| unreadable(&error))?;
    let given: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let given = given.map_err(|error| unreadable(&error))?;
    if given.is_empty() {
        return Err(unreadable(&"it contains no certificate"));
    }
    let mut roots = RootCertStore::empty();
    let added = given.iter().try_for_each(|it| roots.add(it.clone()));
    added.map_err(|error| unreadable(&error))?;
    Ok(given)
}

fn chain_verifier(
    given: &[CertificateDer<'static>],
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<WebPkiServerVerifier>, OpenError> {
    let mut roots = RootCertStore::empty();
    match given {
        [] => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
        given => drop(roots.add_parsable_certificates(given.iter().cloned())),
    }
    let provider = Arc::clone(provider);
    WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
        .build()
        .map_err(unusable)
}

/// A verifier with the semantics of libpq: without a root certificate any authority, and any host
/// unless it is checked.
#[derive(Debug)]
struct LikeLibpq {
    chain: Option<Arc<WebPkiServerVerifier>>,
    /// The trusted certificates from the file.
    given: Vec<CertificateDer<'static>>,
    checks_host: bool,
    signatures: WebPkiSupportedAlgorithms,
}

impl LikeLibpq {
    /// Verifies a CA certificate used as a server certificate (created by `openssl req -x509`, for
    /// example). It is trusted if it is listed.
    fn verify_given(
        &self,
        certificate: &CertificateDer<'_>,
        host: &ServerName<'_>,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if !self.given.contains(certificate) {
            return Err(CertificateError::UnknownIssuer.into());
        }
        if self.checks_host {
            verify_server_name(&ParsedCertificate::try_from(certificate)?, host)?;
        }
        Ok(ServerCertVerified::assertion())
    }
}

/// Whether a certificate was rejected only for being a CA certificate. Its dates are checked
/// before.
fn is_of_authority(error: &CertificateError) -> bool {
    let CertificateError::Other(error) = error else {
        return false;
    };
    matches!(
        error.0.downcast_ref(),
        Some(webpki::Error::CaUsedAsEndEntity)
    )
}

impl ServerCertVerifier for LikeLibpq {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        host: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        use CertificateError::{NotValidForName, NotValidForNameContext};
        let Some(chain) = &self.chain else {
            return Ok(ServerCertVerified::assertion());
        };
        match chain.verify_server_cert(certificate, intermediates, host, ocsp, now) {
            Err(rustls::Error::InvalidCertificate(error)) => match error {
                // The host is checked last.
                NotValidForName | NotValidForNameContext { .. } if !self.checks_host => {
                    Ok(ServerCertVerified::assertion())
                }
                error if is_of_authority(&error) => self.verify_given(certificate, host),
                error => Err(error.into()),
            },
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signed, &self.signatures)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signed, &self.signatures)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.signatures.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_text_requires_no_certificate_option() {
        use SslMode::{Disable, Prefer, Require};
        for (mode, root, expected) in [
            (None, None, (Prefer, Verified::Nothing)),
            (Some("disable"), None, (Disable, Verified::Nothing)),
            (Some("require"), None, (Require, Verified::Nothing)),
            (Some("verify-full"), None, (Require, Verified::Host)),
            (None, Some("ca.pem"), (Require, Verified::Authority)),
            (
                Some("prefer"),
                Some("ca.pem"),
                (Require, Verified::Authority),
            ),
            (
                Some("require"),
                Some("ca.pem"),
                (Require, Verified::Authority),
            ),
            (
                Some("verify-ca"),
                Some("ca.pem"),
                (Require, Verified::Authority),
            ),
            (
                Some("verify-full"),
                Some("ca.pem"),
                (Require, Verified::Host),
            ),
            (None, Some("system"), (Require, Verified::Host)),
        ] {
            assert_eq!(chosen(mode, root).unwrap(), expected, "{mode:?} {root:?}");
        }
        for (mode, root) in [
            (Some("verify-ca"), None),
            (Some("allow"), None),
            (Some("VERIFY-FULL"), None),
            (Some("require"), Some("system")),
        ] {
            assert!(chosen(mode, root).is_err(), "{mode:?} {root:?}");
        }
    }
}
