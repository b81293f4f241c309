//! The body of a response.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use crate::guard::Grant;

pin_project! {
    /// A response body: that of the inner service, or that of a refusal.
    #[derive(Debug)]
    pub struct ResponseBody<B> {
        #[pin]
        inner: Option<B>,
        refusal: Option<Bytes>,
        // The request is in flight until this is dropped.
        grant: Option<Arc<Grant>>,
    }
}

impl<B> ResponseBody<B> {
    pub(super) fn new(inner: B, grant: Option<Arc<Grant>>) -> Self {
        Self {
            inner: Some(inner),
            refusal: None,
            grant,
        }
    }
}

/// The body of a refusal. Without text, the response ends with its header fields, as gRPC demands.
impl<B> From<String> for ResponseBody<B> {
    fn from(text: String) -> Self {
        Self {
            inner: None,
            refusal: (!text.is_empty()).then(|| text.into()),
            grant: None,
        }
    }
}

impl<B: Body<Data = Bytes>> Body for ResponseBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.project();
        match this.inner.as_pin_mut() {
            Some(inner) => inner.poll_frame(context),
            None => Poll::Ready(this.refusal.take().map(|text| Ok(Frame::data(text)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.inner {
            Some(inner) => inner.is_end_stream(),
            None => self.refusal.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match (&self.inner, &self.refusal) {
            (Some(inner), _) => inner.size_hint(),
            (None, refusal) => SizeHint::with_exact(refusal.as_ref().map_or(0, Bytes::len) as u64),
        }
    }
}
