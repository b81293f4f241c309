//! Addresses and sockets that the server listens on.

use std::fmt;
use std::io;
use std::net::SocketAddr;
#[cfg(unix)]
use std::path::PathBuf;
use std::str::FromStr;

use tokio::net::{TcpListener, TcpStream};
#[cfg(unix)]
use tokio::net::{UnixListener, UnixStream};

#[cfg(unix)]
use crate::admin::{BACKLOG, SocketFile};
use crate::input::InvalidInput;
use crate::net::ClientIp;

/// An IP address and a port, or `unix:` and a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ListenAddr {
    Tcp(SocketAddr),
    #[cfg(unix)]
    Unix(PathBuf),
}

impl ListenAddr {
    /// Whether only clients on this machine can connect.
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
                true => Err(InvalidInput::new("listen", "expected a path after `unix:`")),
                false => Ok(Self::Unix(path.into())),
            };
        }
        text.parse().map(Self::Tcp).map_err(|_| {
            InvalidInput::new(
                "listen",
                "expected an IP address and a port, such as `127.0.0.1:8700` or `[::1]:8700`, or \
                 `unix:PATH`",
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

/// A listening socket. Dropping it removes the file of a Unix socket.
pub(super) enum Listener {
    Tcp(TcpListener),
    #[cfg(unix)]
    Unix(SocketFile, UnixListener),
}

/// An accepted connection.
pub(super) enum Stream {
    Tcp(TcpStream),
    #[cfg(unix)]
    Unix(UnixStream),
}

impl Listener {
    /// Binds a socket; a Unix socket gets this mode.
    pub(super) fn bind(addr: &ListenAddr, mode: u32) -> io::Result<Self> {
        match addr {
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
                Ok(Self::Unix(file, UnixListener::from_std(listener)?))
            }
        }
    }

    /// Returns the bound address, with the actual port instead of 0.
    pub(super) fn local_addr(&self) -> io::Result<ListenAddr> {
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
                // Each response is one small write.
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
