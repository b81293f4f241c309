//! A service and what a request must pass before it gets there.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use http::request::Parts;
use http::{Request, Response};
use pin_project_lite::pin_project;

use super::body::AnswerBody;
use super::response::set_grant_fields;
use crate::guard::Grant;
use crate::sys::block_on;

/// What a request must pass; only the layers here are such.
pub trait Gate: Clone + Send + Sync + 'static {
    /// Whether it has to ask another server before it can let anybody through.
    fn asks_others(&self) -> bool;

    /// Lets a request through, with a grant if it needed one, or answers it.
    fn admit(&self, head: &mut Parts) -> impl Future<Output = Passage> + Send;
}

pub(super) type Passage = Result<Option<Arc<Grant>>, Refusal>;

/// An answer that does not come from the service.
pub(super) type Refusal = Box<Response<String>>;

/// A service behind a [`KeyGuardLayer`](super::KeyGuardLayer) or an
/// [`IpLimitLayer`](super::IpLimitLayer).
#[derive(Clone, Debug)]
pub struct Gated<S, G> {
    pub(super) service: S,
    pub(super) gate: G,
}

impl<S, G: Gate> Gated<S, G> {
    fn start<B, C: Call<B>, R>(gate: &G, request: Request<B>, call: C) -> GatedFuture<C, B, R> {
        let (mut head, body) = request.into_parts();
        if gate.asks_others() {
            let gate = gate.clone();
            let passing = Box::pin(async move {
                let passage = gate.admit(&mut head).await;
                (head, passage)
            });
            return GatedFuture::Passing {
                passing,
                behind: Some((call, body)),
            };
        }
        let passage = block_on(gate.admit(&mut head));
        GatedFuture::passed(head, body, passage, call)
    }
}

impl<S, G, B, R> tower_service::Service<Request<B>> for Gated<S, G>
where
    S: tower_service::Service<Request<B>, Response = Response<R>> + Clone,
    G: Gate,
{
    type Response = Response<AnswerBody<R>>;
    type Error = S::Error;
    type Future = GatedFuture<OfTower<S>, B, R>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.service.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let next = self.service.clone();
        // It is this one that is ready.
        let ready = std::mem::replace(&mut self.service, next);
        Self::start(&self.gate, request, OfTower(ready))
    }
}

impl<S, G, B, R> hyper::service::Service<Request<B>> for Gated<S, G>
where
    S: hyper::service::Service<Request<B>, Response = Response<R>> + Clone,
    G: Gate,
{
    type Response = Response<AnswerBody<R>>;
    type Error = S::Error;
    type Future = GatedFuture<OfHyper<S>, B, R>;

    fn call(&self, request: Request<B>) -> Self::Future {
        Self::start(&self.gate, request, OfHyper(self.service.clone()))
    }
}

/// A service that one request may be handed to.
pub trait Call<B> {
    /// Its answer.
    type Future;

    /// Hands the request over.
    fn call(self, request: Request<B>) -> Self::Future;
}

/// A service of tower that is ready.
#[derive(Debug)]
pub struct OfTower<S>(S);

impl<B, S: tower_service::Service<Request<B>>> Call<B> for OfTower<S> {
    type Future = S::Future;

    fn call(mut self, request: Request<B>) -> S::Future {
        self.0.call(request)
    }
}

/// A service of hyper.
#[derive(Debug)]
pub struct OfHyper<S>(S);

impl<B, S: hyper::service::Service<Request<B>>> Call<B> for OfHyper<S> {
    type Future = S::Future;

    fn call(self, request: Request<B>) -> S::Future {
        self.0.call(request)
    }
}

/// What comes of a request once the gate has decided.
type Passing = Pin<Box<dyn Future<Output = (Parts, Passage)> + Send>>;

pin_project! {
    /// The answer of a [`Gated`] service.
    #[project = State]
    pub enum GatedFuture<C: Call<B>, B, R> {
        /// The gate has to ask.
        #[doc(hidden)]
        Passing { passing: Passing, behind: Option<(C, B)> },
        /// The service answers.
        #[doc(hidden)]
        Answering { #[pin] answer: C::Future, grant: Option<Arc<Grant>> },
        /// The gate answers. Nobody may poll again once that is out.
        #[doc(hidden)]
        Refused { refusal: Option<Refusal>, answer: std::marker::PhantomData<R> },
    }
}

impl<C: Call<B>, B, R> GatedFuture<C, B, R> {
    fn passed(head: Parts, body: B, passage: Passage, call: C) -> Self {
        match passage {
            Ok(grant) => Self::Answering {
                answer: call.call(Request::from_parts(head, body)),
                grant,
            },
            Err(refusal) => Self::Refused {
                refusal: Some(refusal),
                answer: std::marker::PhantomData,
            },
        }
    }
}

impl<C: Call<B>, B, R> std::fmt::Debug for GatedFuture<C, B, R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GatedFuture").finish_non_exhaustive()
    }
}

impl<C, B, R, E> Future for GatedFuture<C, B, R>
where
    C: Call<B>,
    C::Future: Future<Output = Result<Response<R>, E>>,
{
    type Output = Result<Response<AnswerBody<R>>, E>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            let next = match self.as_mut().project() {
                State::Passing { passing, behind } => {
                    let (head, passage) = ready!(passing.as_mut().poll(context));
                    let Some((call, body)) = behind.take() else {
                        return Poll::Pending;
                    };
                    Self::passed(head, body, passage, call)
                }
                State::Answering { answer, grant } => {
                    let mut response = ready!(answer.poll(context))?;
                    let grant = grant.take();
                    if let Some(grant) = &grant {
                        grant.answer(response.status().as_u16());
                        set_grant_fields(response.headers_mut(), grant);
                    }
                    return Poll::Ready(Ok(response.map(|body| AnswerBody::of(body, grant))));
                }
                State::Refused { refusal, .. } => {
                    return match refusal.take() {
                        Some(refusal) => Poll::Ready(Ok(refusal.map(AnswerBody::from))),
                        None => Poll::Pending,
                    };
                }
            };
            self.set(next);
        }
    }
}
