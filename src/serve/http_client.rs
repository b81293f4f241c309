//! Requests to other servers.

use std::io;

use bytes::Bytes;
use http::{Request, response};
use http_body_util::Full;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

/// Sends a request on a connection of its own, and returns the head of the response. Its body is not read.
pub(super) async fn send(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Full<Bytes>>,
) -> io::Result<response::Parts> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(io::Error::other)?;
    // Ends when the sender is dropped.
    tokio::spawn(connection);
    let response = sender.send_request(request).await;
    Ok(response.map_err(io::Error::other)?.into_parts().0)
}
