//! Where the server listens.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use tokio::net::{TcpListener, TcpStream};
#[cfg(unix)]
use tokio::net::{UnixListener, UnixStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

#[cfg(unix)]
use crate::admin::SocketFile;
use crate::input::InvalidInput;
use crate::net::ClientIp;

/// How many connections may wait to be accepted. The standard library asks for 128; a burst of more
/// is dropped, and tried again by the clients' systems after a second. The system's own bound
/// (`net.core.somaxconn`) is mostly 4,096.
#[cfg(unix)]
const BACKLOG: i32 = 4_096;

/// An address, or `unix:` and a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ListenAddr {
    Tcp(SocketAddr),
    #[cfg(unix)]
    Unix(PathBuf),
}

impl ListenAddr {
    /// Whether only this machine reaches it.
    pub(super) fn is_local(&self) -> bool {
        match self {
            Self::Tcp(address) => address.ip().to_canonical().is_loopback(),
            #[cfg(unix)]
            Self::Unix(_) => true,
        }
    }
}

impl FromStr for ListenAddr {
    type Err = InvalidInput;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        #[cfg(unix)]
        if let Some(path) = text.strip_prefix("unix:") {
            return match path.is_empty() {
                true => Err(InvalidInput::new("listen", "give a path behind `unix:`")),
                false => Ok(Self::Unix(path.into())),
            };
        }
        text.parse().map(Self::Tcp).map_err(|_| {
            InvalidInput::new(
                "listen",
                "expected an address and a port such as `127.0.0.1:8700` or `[::1]:8700`, or `unix:` \
                 and a path",
            )
        })
    }
}

impl fmt::Display for ListenAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            #[cfg(unix)]
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// A socket that listens. Dropping it takes a Unix socket's path away.
pub(super) enum Listener {
    Tcp(TcpListener),
    #[cfg(unix)]
    Unix(SocketFile, UnixListener),
}

/// One side of a connection.
pub(super) enum Stream {
    Tcp(TcpStream),
    #[cfg(unix)]
    Unix(UnixStream),
}

impl Listener {
    /// `mode` is that of a Unix socket.
    pub(super) fn bind(place: &ListenAddr, mode: u32) -> io::Result<Self> {
        match place {
            ListenAddr::Tcp(address) => {
                let listener = std::net::TcpListener::bind(address)?;
                listener.set_nonblocking(true)?;
                #[cfg(unix)]
                rustix::net::listen(&listener, BACKLOG)?;
                Ok(Self::Tcp(TcpListener::from_std(listener)?))
            }
            #[cfg(unix)]
            ListenAddr::Unix(path) => {
                if std::os::unix::net::UnixStream::connect(path).is_ok() {
                    return Err(io::ErrorKind::AddrInUse.into());
                }
                let (listener, file) = crate::admin::bind_socket(path, mode)?;
                rustix::net::listen(&listener, BACKLOG)?;
                Ok(Self::Unix(file, UnixListener::from_std(listener)?))
            }
        }
    }

    /// Where it is; a port of 0 has become one.
    pub(super) fn place(&self) -> io::Result<ListenAddr> {
        Ok(match self {
            Self::Tcp(listener) => ListenAddr::Tcp(listener.local_addr()?),
            #[cfg(unix)]
            Self::Unix(file, _) => ListenAddr::Unix(file.path().into()),
        })
    }

    pub(super) async fn accept(&self) -> io::Result<(Stream, ClientIp)> {
        Ok(match self {
            Self::Tcp(listener) => {
                let (stream, address) = listener.accept().await?;
                // Answers are small and complete.
                let _ = stream.set_nodelay(true);
                (Stream::Tcp(stream), address.into())
            }
            #[cfg(unix)]
            Self::Unix(_, listener) => {
                let (stream, _) = listener.accept().await?;
                (Stream::Unix(stream), ClientIp::LOCAL)
            }
        })
    }
}

/// Where a certificate and its key are.
#[derive(Clone, Debug)]
pub(crate) struct Tls {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

impl Tls {
    pub(super) fn acceptor(&self) -> Result<TlsAcceptor, String> {
        let within = |file: &Path, problem: String| format!("`{}`: {problem}", file.display());
        let chain = CertificateDer::pem_file_iter(&self.certificate)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|error| within(&self.certificate, error.to_string()))?;
        if chain.is_empty() {
            return Err(within(
                &self.certificate,
                "holds no certificate in PEM".into(),
            ));
        }
        let key = PrivateKeyDer::from_pem_file(&self.key)
            .map_err(|error| within(&self.key, error.to_string()))?;
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_no_client_auth()
            .with_single_cert(chain, key);
        let mut config = config.map_err(|error| within(&self.certificate, error.to_string()))?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(TlsAcceptor::from(Arc::new(config)))
    }
}
