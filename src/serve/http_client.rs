//! Requests to other servers, which may be hostile.

use std::convert::Infallible;
use std::future::pending;
use std::io;
use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use http::uri::Authority;
use http::{Request, response};
use http_body_util::Full;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, Join, Take};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpStream, ToSocketAddrs};
use tokio::time::timeout;

/// The most bytes that are read from a connection, including those of TLS.
const MOST_READ: u64 = 65_536;

/// A connection that ends after [`MOST_READ`] bytes. TLS and HTTP skip some messages, such as `100 Continue`, in a
/// loop that a server could keep running.
pub(super) type Stream = Join<Take<OwnedReadHalf>, OwnedWriteHalf>;

/// Connects to the first of these addresses that accepts the connection.
pub(super) async fn connect(addresses: impl ToSocketAddrs) -> io::Result<Stream> {
    let (reader, writer) = TcpStream::connect(addresses).await?.into_split();
    Ok(tokio::io::join(reader.take(MOST_READ), writer))
}

/// Sends a request on a [connection](connect) of its own, and returns the head of the response. Its body is not
/// read. The connection ends with the future.
pub(super) async fn send(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Full<Bytes>>,
) -> io::Result<response::Parts> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(io::Error::other)?;
    // Never ready. A connection that has ended is dropped, which makes the response ready.
    let mut connection = pin!(async move {
        let _ = connection.await;
        pending::<Infallible>().await
    });
    let response = tokio::select! {
        biased;
        response = sender.send_request(request) => response,
        never = &mut connection => match never {},
    };
    let head = response.map_err(problem)?.into_parts().0;
    drop(sender);
    // Tells TLS the end, without waiting for it.
    let _ = timeout(Duration::ZERO, connection).await;
    Ok(head)
}

fn problem(error: hyper::Error) -> io::Error {
    match error.is_incomplete_message() {
        true => io::Error::other(format!(
            "the connection ended before a response, or there is none within {MOST_READ} bytes"
        )),
        false => io::Error::other(error),
    }
}

/// Returns the port of an address without a user name, or `default` if it has none; `None` if it is not a port.
pub(super) fn port_of(authority: &Authority, default: u16) -> Option<u16> {
    let port = authority.as_str().strip_prefix(authority.host())?;
    if port.is_empty() {
        return Some(default);
    }
    let digits = port.strip_prefix(':')?;
    let is_number = digits.bytes().all(|byte| byte.is_ascii_digit());
    let number = digits.parse().ok().filter(|_| is_number);
    number.filter(|number| *number > 0)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{SocketAddr, TcpListener};
    use std::thread::{self, JoinHandle};

    use tokio::runtime::Runtime;
    use tokio::sync::oneshot;

    use super::*;

    /// Longer than any test takes.
    const MINUTE: Duration = Duration::from_secs(60);

    /// A server of one connection.
    fn server<T: Send + 'static>(
        serve: impl FnOnce(std::net::TcpStream) -> T + Send + 'static,
    ) -> (SocketAddr, JoinHandle<T>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let thread = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.set_read_timeout(Some(MINUTE)).unwrap();
            assert!(stream.read(&mut [0; 4_096]).unwrap() > 0);
            serve(stream)
        });
        (address, thread)
    }

    async fn exchange(address: SocketAddr) -> io::Result<response::Parts> {
        let request = Request::post("/").body(Full::default()).unwrap();
        send(connect(address).await?, request).await
    }

    #[test]
    fn head_is_returned_without_the_body() {
        for more in ["Content-Length: 9", "Connection: close"] {
            let (address, thread) = server(move |mut stream| {
                let informational = "HTTP/1.1 103 Early Hints\r\n\r\n";
                let head = format!("{informational}HTTP/1.1 202 Accepted\r\n{more}\r\n\r\nbody");
                stream.write_all(head.as_bytes()).unwrap();
            });
            let head = Runtime::new().unwrap().block_on(exchange(address));
            assert_eq!(head.unwrap().status, 202);
            thread.join().unwrap();
        }
    }

    #[test]
    fn endless_responses_end_the_connection() {
        for (start, part) in [
            ("", "HTTP/1.1 100 Continue\r\n\r\n"),
            ("HTTP/1.1 200 OK\r\nA: ", "a"),
        ] {
            let (address, thread) = server(move |mut stream| {
                stream.write_all(start.as_bytes()).unwrap();
                let endless = part.repeat(20_000);
                while stream.write_all(endless.as_bytes()).is_ok() {}
            });
            let head = Runtime::new()
                .unwrap()
                .block_on(async { timeout(MINUTE, exchange(address)).await.unwrap() });
            let error = head.unwrap_err();
            assert!(error.to_string().contains("within 65536 bytes"), "{error}");
            thread.join().unwrap();
        }
    }

    #[test]
    fn cancelled_exchange_closes_its_connection() {
        let (received, is_received) = oneshot::channel();
        let (address, thread) = server(move |mut stream| {
            received.send(()).unwrap();
            stream.read(&mut [0; 1])
        });
        let runtime = Runtime::new().unwrap();
        runtime.block_on(async {
            tokio::select! {
                _ = exchange(address) => panic!("there is no response"),
                received = is_received => received.unwrap(),
            }
        });
        assert_eq!(thread.join().unwrap().unwrap(), 0);
    }

    #[test]
    fn ports_are_numbers() {
        let port = |authority: &str| port_of(&authority.parse().unwrap(), 443);
        assert_eq!(port("example.com"), Some(443));
        assert_eq!(port("example.com:8443"), Some(8_443));
        assert_eq!(port("[::1]:80"), Some(80));
        for invalid in [":", ":0", ":99999", ":+80", ":a"] {
            let authority = format!("example.com{invalid}");
            if authority.parse::<Authority>().is_ok() {
                assert_eq!(port(&authority), None, "{authority}");
            }
        }
    }
}
