//! Bodies: of answers, the service's own or that of a refusal; of requests, read to their end.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::StatusCode;
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use pin_project_lite::pin_project;

use super::problem::Problem;
use crate::guard::Grant;

pin_project! {
    /// The body of an answer: that of the service, or that of a refusal.
    #[derive(Debug)]
    pub struct AnswerBody<B> {
        #[pin]
        inner: Option<B>,
        refusal: Option<Bytes>,
        // The request is in flight until its body has been sent.
        grant: Option<Arc<Grant>>,
    }
}

impl<B> AnswerBody<B> {
    pub(crate) fn of(inner: B, grant: Option<Arc<Grant>>) -> Self {
        Self {
            inner: Some(inner),
            refusal: None,
            grant,
        }
    }
}

/// A refusal.
impl<B> From<String> for AnswerBody<B> {
    fn from(text: String) -> Self {
        Self {
            inner: None,
            refusal: Some(text.into()),
            grant: None,
        }
    }
}

impl<B: Body<Data = Bytes>> Body for AnswerBody<B> {
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

/// A body of at most so many bytes.
pub(crate) async fn read_body<B>(body: B, most_bytes: usize) -> Result<Bytes, Problem>
where
    B: Body,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    match Limited::new(body, most_bytes).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => {
            let detail = format!("The body is longer than {most_bytes} bytes.");
            Err(Problem::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                "too_large",
                detail,
            ))
        }
        Err(_) => {
            let detail = "The body cannot be read to its end.";
            Err(Problem::new(StatusCode::BAD_REQUEST, "bad_body", detail))
        }
    }
}
