//! The future of a response: admission, then the response of the inner service.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use http::request::Parts;
use http::{Request, Response};
use pin_project_lite::pin_project;

use super::body::ResponseBody;
use super::{Admission, Admit};
use crate::guard::Grant;
use crate::http::response::set_grant_headers;
use crate::sys::block_on;

pin_project! {
    /// The response future of a [`KeyGuardService`](super::KeyGuardService).
    pub struct ResponseFuture<S, B, F> {
        #[pin]
        state: State<S, B, F>,
    }
}

pin_project! {
    #[project = StateProjection]
    enum State<S, B, F> {
        /// Waits for another server.
        Admitting {
            admission: Pin<Box<dyn Future<Output = (Parts, Admission)> + Send>>,
            next: Option<(S, B)>,
            call: Call<S, B, F>,
        },
        /// Waits for the inner service.
        Responding { #[pin] response: F, grant: Option<Arc<Grant>> },
        Refused { response: Option<Box<Response<String>>> },
    }
}

/// Calls a service.
type Call<S, B, F> = fn(S, Request<B>) -> F;

impl<S, B, F> ResponseFuture<S, B, F> {
    /// Decides about a request before it returns, and calls the inner service.
    pub(super) fn decided(
        layer: &impl Admit,
        request: Request<B>,
        call: impl FnOnce(Request<B>) -> F,
    ) -> Self {
        let (mut head, body) = request.into_parts();
        let admission = block_on(layer.admit(&mut head));
        let state = State::admitted(admission, || call(Request::from_parts(head, body)));
        Self { state }
    }

    /// Decides about a request while it is polled, because the decision may wait for another server.
    pub(super) fn deciding(
        layer: &impl Admit,
        request: Request<B>,
        service: S,
        call: Call<S, B, F>,
    ) -> Self {
        let (mut head, body) = request.into_parts();
        let layer = layer.clone();
        let admission = Box::pin(async move {
            let admission = layer.admit(&mut head).await;
            (head, admission)
        });
        let next = Some((service, body));
        let state = State::Admitting {
            admission,
            next,
            call,
        };
        Self { state }
    }
}

impl<S, B, F> State<S, B, F> {
    fn admitted(admission: Admission, call: impl FnOnce() -> F) -> Self {
        match admission {
            Ok(grant) => Self::Responding {
                response: call(),
                grant,
            },
            Err(response) => Self::Refused {
                response: Some(response),
            },
        }
    }
}

/// Returns `Pending` if it is polled after completion.
impl<S, B, F, R, E> Future for ResponseFuture<S, B, F>
where
    F: Future<Output = Result<Response<R>, E>>,
{
    type Output = Result<Response<ResponseBody<R>>, E>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        loop {
            let next = match state.as_mut().project() {
                StateProjection::Admitting {
                    admission,
                    next,
                    call,
                } => {
                    let (head, admission) = ready!(admission.as_mut().poll(context));
                    let Some((service, body)) = next.take() else {
                        return Poll::Pending;
                    };
                    let call = *call;
                    State::admitted(admission, || call(service, Request::from_parts(head, body)))
                }
                StateProjection::Responding { response, grant } => {
                    let mut response = ready!(response.poll(context))?;
                    let grant = grant.take();
                    if let Some(grant) = &grant {
                        grant.record_status(response.status().as_u16());
                        set_grant_headers(response.headers_mut(), grant);
                    }
                    return Poll::Ready(Ok(response.map(|body| ResponseBody::new(body, grant))));
                }
                StateProjection::Refused { response } => {
                    return match response.take() {
                        Some(response) => Poll::Ready(Ok(response.map(ResponseBody::from))),
                        None => Poll::Pending,
                    };
                }
            };
            state.set(next);
        }
    }
}

impl<S, B, F> fmt::Debug for ResponseFuture<S, B, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
