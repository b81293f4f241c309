//! The responses of the admin service.

use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::Response;
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;

/// The future of a response of [`AdminService`](crate::http::AdminService).
pub struct AdminFuture(Pin<Box<dyn Future<Output = AdminResult> + Send>>);

type AdminResult = Result<Response<AdminBody>, Infallible>;

impl AdminFuture {
    pub(super) fn new(
        response: impl Future<Output = Response<Full<Bytes>>> + Send + 'static,
    ) -> Self {
        Self(Box::pin(async { Ok(response.await.map(AdminBody)) }))
    }
}

impl Future for AdminFuture {
    type Output = AdminResult;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<AdminResult> {
        self.0.as_mut().poll(context)
    }
}

impl fmt::Debug for AdminFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AdminFuture").finish_non_exhaustive()
    }
}

/// The body of a response of [`AdminService`](crate::http::AdminService).
#[derive(Debug)]
pub struct AdminBody(pub(crate) Full<Bytes>);

impl Body for AdminBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Pin::new(&mut self.0).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.size_hint()
    }
}
