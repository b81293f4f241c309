//! Where the server is, and how it proves that it is the right one.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::ring;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use tokio_postgres::Config;
use tokio_postgres_rustls::MakeRustlsConnect;

use super::problem::unusable;
use crate::store::OpenError;

/// How long connecting may take, where the URL does not say it.
const CONNECTING: Duration = Duration::from_secs(3);

/// How long a peer may be silent that was sent something, before the connection counts as lost.
const SILENCE: Duration = Duration::from_secs(5);

/// The parameter of a URL that names the file of a private authority.
const ROOT_FILE: &str = "sslrootcert";

#[derive(Clone)]
pub(super) struct Address {
    pub(super) config: Config,
    pub(super) tls: MakeRustlsConnect,
}

impl Address {
    pub(super) fn parse(url: &str) -> Result<Self, OpenError> {
        let (url, root_file) = without_root_file(url);
        // What cannot be read is not shown: a password may be a part of it.
        let mut config: Config = url.parse().map_err(|_| {
            unusable(
                "its URL cannot be read; give one such as \
                 `postgres://USER:PASSWORD@HOST:5432/DATABASE?sslmode=require`",
            )
        })?;
        if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
            return Err(unusable("its URL names no host"));
        }
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(CONNECTING);
        }
        if config.get_tcp_user_timeout().is_none() {
            config.tcp_user_timeout(SILENCE);
        }
        if config.get_application_name().is_none() {
            config.application_name("keyguard");
        }
        Ok(Self {
            config,
            tls: MakeRustlsConnect::new(trusting(root_file.as_deref())?),
        })
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Address(…)")
    }
}

/// The URL as the client library knows it, and what it does not know.
fn without_root_file(url: &str) -> (String, Option<String>) {
    let Some((base, query)) = url.split_once('?') else {
        return (url.to_owned(), None);
    };
    let mut root_file = None;
    let mut rest = Vec::new();
    for parameter in query.split('&') {
        match parameter.split_once('=') {
            Some((ROOT_FILE, file)) => root_file = Some(percent_decoded(file)),
            _ => rest.push(parameter),
        }
    }
    let url = match rest.as_slice() {
        [] => base.to_owned(),
        rest => format!("{base}?{}", rest.join("&")),
    };
    (url, root_file)
}

fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        let code = after.first_chunk::<2>();
        let code = code.and_then(|code| std::str::from_utf8(code).ok());
        let code = code.and_then(|code| u8::from_str_radix(code, 16).ok());
        match (first, code) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            _ => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Trusts the authorities in a file, or else those that browsers trust.
fn trusting(root_file: Option<&str>) -> Result<ClientConfig, OpenError> {
    let mut roots = RootCertStore::empty();
    match root_file {
        None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
        Some(file) => {
            let unreadable = |why: &dyn fmt::Display| {
                unusable(format!(
                    "the certificates in `{file}`, which `{ROOT_FILE}` names, cannot be read: {why}"
                ))
            };
            let certificates =
                CertificateDer::pem_file_iter(file).map_err(|error| unreadable(&error))?;
            for certificate in certificates {
                let certificate = certificate.map_err(|error| unreadable(&error))?;
                roots.add(certificate).map_err(|error| unreadable(&error))?;
            }
            if roots.is_empty() {
                return Err(unreadable(&"there is none"));
            }
        }
    }
    // Named here: where several are compiled in, none is chosen by itself.
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(unusable)?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_file_is_taken_out_of_the_url() {
        for (url, rest, file) in [
            ("postgres://h/d", "postgres://h/d", None),
            (
                "postgres://h/d?sslrootcert=/a%20b",
                "postgres://h/d",
                Some("/a b"),
            ),
            (
                "postgres://h/d?sslmode=require&sslrootcert=x&connect_timeout=1",
                "postgres://h/d?sslmode=require&connect_timeout=1",
                Some("x"),
            ),
        ] {
            let (left, root_file) = without_root_file(url);
            assert_eq!((left.as_str(), root_file.as_deref()), (rest, file));
        }
    }

    #[test]
    fn a_url_that_cannot_be_read_is_not_shown() {
        for url in [
            "postgres://me:hunter2@h:port/d",
            "postgres://me:hunter2@h/d?sslmode=maybe",
            "postgres://me:hunter2@h/d?nonsense=1",
            "hunter2",
            "postgres://me:hunter2@/d",
        ] {
            let error = Address::parse(url).unwrap_err().to_string();
            assert!(!error.contains("hunter2"), "{error}");
        }
        let address = Address::parse("postgres://me:hunter2@h/d").unwrap();
        assert!(!format!("{address:?}").contains("hunter2"));
    }
}
