//! A service and what a request must pass before it gets there.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use http::{Request, Response};
use pin_project_lite::pin_project;

use super::body::AnswerBody;
use super::response::set_grant_fields;
use crate::guard::Grant;

/// What a request must pass; only the layers here are such.
pub trait Gate {
    /// Lets a request through, with a grant if it needed one, or answers it.
    fn admit<B, R>(&self, request: &mut Request<B>) -> Result<Option<Arc<Grant>>, Refusal<R>>;
}

/// An answer that does not come from the service.
pub(super) type Refusal<R> = Box<Response<AnswerBody<R>>>;

/// A service behind a [`KeyGuardLayer`](super::KeyGuardLayer) or an
/// [`IpLimitLayer`](super::IpLimitLayer).
#[derive(Clone, Debug)]
pub struct Gated<S, G> {
    pub(super) service: S,
    pub(super) gate: G,
}

impl<S, G: Gate> Gated<S, G> {
    fn start<B, F, R>(
        gate: &G,
        mut request: Request<B>,
        call: impl FnOnce(Request<B>) -> F,
    ) -> GatedFuture<F, R> {
        match gate.admit(&mut request) {
            Ok(grant) => GatedFuture {
                answer: Some(call(request)),
                grant,
                refusal: None,
            },
            Err(refusal) => GatedFuture {
                answer: None,
                grant: None,
                refusal: Some(refusal),
            },
        }
    }
}

impl<S, G, B, R> tower_service::Service<Request<B>> for Gated<S, G>
where
    S: tower_service::Service<Request<B>, Response = Response<R>>,
    G: Gate,
{
    type Response = Response<AnswerBody<R>>;
    type Error = S::Error;
    type Future = GatedFuture<S::Future, R>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.service.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let service = &mut self.service;
        Self::start(&self.gate, request, |request| service.call(request))
    }
}

impl<S, G, B, R> hyper::service::Service<Request<B>> for Gated<S, G>
where
    S: hyper::service::Service<Request<B>, Response = Response<R>>,
    G: Gate,
{
    type Response = Response<AnswerBody<R>>;
    type Error = S::Error;
    type Future = GatedFuture<S::Future, R>;

    fn call(&self, request: Request<B>) -> Self::Future {
        Self::start(&self.gate, request, |request| self.service.call(request))
    }
}

pin_project! {
    /// The answer of a [`Gated`] service.
    #[derive(Debug)]
    pub struct GatedFuture<F, R> {
        #[pin]
        answer: Option<F>,
        grant: Option<Arc<Grant>>,
        refusal: Option<Refusal<R>>,
    }
}

impl<F, R, E> Future for GatedFuture<F, R>
where
    F: Future<Output = Result<Response<R>, E>>,
{
    type Output = Result<Response<AnswerBody<R>>, E>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let Some(answer) = this.answer.as_pin_mut() else {
            // Nobody may poll again once the refusal is out.
            return this
                .refusal
                .take()
                .map_or(Poll::Pending, |refusal| Poll::Ready(Ok(*refusal)));
        };
        let mut response = ready!(answer.poll(context))?;
        let grant = this.grant.take();
        if let Some(grant) = &grant {
            grant.answer(response.status().as_u16());
            set_grant_fields(response.headers_mut(), grant);
        }
        Poll::Ready(Ok(response.map(|body| AnswerBody::of(body, grant))))
    }
}
