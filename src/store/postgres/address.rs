//! The address of the server and the verification of its identity.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use percent_encoding::percent_decode_str;
use tokio_postgres::Config;
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::server_error::unusable;
use super::tls;
use crate::store::OpenError;

/// Default connect timeout.
const CONNECTING: Duration = Duration::from_secs(3);

/// How long sent data may stay unacknowledged before the connection counts as lost.
const SILENCE: Duration = Duration::from_secs(5);

/// A database URL, for KeyGuard or for the Python package.
#[derive(Clone)]
pub(crate) struct DatabaseUrl {
    pub(crate) config: Config,
    pub(crate) tls: MakeRustlsConnect,
}

impl DatabaseUrl {
    pub(crate) fn parse(url: &str) -> Result<Self, OpenError> {
        let (url, TlsParameters { mode, root_file }) = split_tls(url)?;
        // An invalid URL is not quoted, because it may contain a password.
        let mut config: Config = url.parse().map_err(|_| {
            unusable(
                "its URL is invalid; expected \
                 `postgres://USER:PASSWORD@HOST:5432/DATABASE?sslmode=verify-full`",
            )
        })?;
        if config.get_hosts().is_empty() {
            if config.get_hostaddrs().is_empty() {
                return Err(unusable("its URL has no host"));
            }
            // TLS needs a host name.
            for address in config.get_hostaddrs().to_vec() {
                config.host(address.to_string());
            }
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
        // The TLS mode parsed by the client library must not be weakened.
        if config.get_ssl_mode() != SslMode::Prefer {
            return Err(unusable(
                "unsupported form of `sslmode` in the URL; write `?sslmode=MODE`",
            ));
        }
        let root_file = root_file.filter(|file| !file.is_empty());
        let (ssl_mode, tls) = tls::configured(mode.as_deref(), root_file.as_deref())?;
        // Unix sockets never use TLS.
        let is_local =
            config.get_hostaddrs().is_empty() && !config.get_hosts().iter().any(is_remote);
        config.ssl_mode(if is_local { SslMode::Disable } else { ssl_mode });
        Ok(Self {
            config,
            tls: MakeRustlsConnect::new(tls),
        })
    }
}

fn is_remote(host: &Host) -> bool {
    matches!(host, Host::Tcp(_))
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DatabaseUrl(…)")
    }
}

/// The TLS parameters of a URL.
#[derive(Debug, Default)]
struct TlsParameters {
    mode: Option<String>,
    root_file: Option<String>,
}

/// Splits off the TLS parameters, which the client library does not support.
///
/// The library treats everything before the first `@` as user and password. If that contains a `?`,
/// the start of the parameters is ambiguous.
fn split_tls(url: &str) -> Result<(String, TlsParameters), OpenError> {
    let mut tls = TlsParameters::default();
    let Some((base, query)) = url.split_once('?') else {
        return Ok((url.to_owned(), tls));
    };
    if query.contains('@') {
        return Err(unusable(
            "its URL has a `?` before an `@`: write `%3F` in a user's name or a password, and `%40` in \
             a parameter",
        ));
    }
    let mut rest = Vec::new();
    for parameter in query.split('&') {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        match &*percent_decoded(name) {
            tls::MODE => tls.mode = Some(percent_decoded(value).into_owned()),
            tls::ROOT_FILE => tls.root_file = Some(percent_decoded(value).into_owned()),
            _ => rest.push(parameter),
        }
    }
    let url = match rest.as_slice() {
        [] => base.to_owned(),
        rest => format!("{base}?{}", rest.join("&")),
    };
    Ok((url, tls))
}

fn percent_decoded(text: &str) -> Cow<'_, str> {
    percent_decode_str(text).decode_utf8_lossy()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tls_parameters_are_split_off() {
        for (url, rest, mode, file) in [
            ("postgres://h/d", "postgres://h/d", None, None),
            (
                "postgres://h/d?sslrootcert=/a%20b",
                "postgres://h/d",
                None,
                Some("/a b"),
            ),
            (
                "postgres://h/d?sslmode=verify-ca&sslrootcert=x&connect_timeout=1",
                "postgres://h/d?connect_timeout=1",
                Some("verify-ca"),
                Some("x"),
            ),
        ] {
            let (left, found) = split_tls(url).unwrap();
            assert_eq!(left, rest);
            let found = (found.mode.as_deref(), found.root_file.as_deref());
            assert_eq!(found, (mode, file));
        }
    }

    #[test]
    fn a_unix_socket_has_no_tls() {
        let url = "postgres://me@%2Frun%2Fpostgresql/d?sslmode=require";
        let mode = DatabaseUrl::parse(url).unwrap().config.get_ssl_mode();
        assert_eq!(mode, SslMode::Disable);
    }

    /// Regression: each of these connected in plain text.
    #[test]
    fn requested_tls_is_never_dropped() {
        let mode = |url: &str| DatabaseUrl::parse(url).map(|address| address.config.get_ssl_mode());
        for url in [
            "postgres://me@h/d?ssl%6Dode=require",
            "postgres://me@h/d?connect_timeout=1&%73slmode=verify-full",
            "postgres://me:a%3Fb@h/d?sslmode=require",
            "postgres://me@%2Frun%2Fpostgresql/d?hostaddr=192.0.2.1&sslmode=verify-full",
            "postgres://me@h/d?sslrootcert=&sslmode=require",
        ] {
            assert_eq!(mode(url).unwrap(), SslMode::Require, "{url}");
        }
        for url in [
            "postgres://me:a?b@h/d?sslmode=require",
            "postgres://me:a?sslmode=require@h/d",
            "postgres://h/d?sslmode=require&user=me@h",
            "host=h user=me sslmode=require",
            "postgres://me@h/d?ssl%6Dode=maybe",
        ] {
            assert!(mode(url).is_err(), "{url}");
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
            let error = DatabaseUrl::parse(url).unwrap_err().to_string();
            assert!(!error.contains("hunter2"), "{error}");
        }
        let address = DatabaseUrl::parse("postgres://me:hunter2@h/d").unwrap();
        assert!(!format!("{address:?}").contains("hunter2"));
    }
}
