//! The service that the layers make.

use std::task::{Context, Poll};

use http::{Request, Response};

use super::Admit;
use super::body::ResponseBody;
use super::future::ResponseFuture;

/// A service behind a [`KeyGuardLayer`](super::KeyGuardLayer) or an
/// [`IpLimitLayer`](super::IpLimitLayer), for tower and for hyper.
#[derive(Clone, Debug)]
pub struct KeyGuardService<S, L> {
    inner: S,
    layer: L,
}

impl<S, L> KeyGuardService<S, L> {
    pub(super) fn new(inner: S, layer: L) -> Self {
        Self { inner, layer }
    }
}

impl<S, L, B, R> tower_service::Service<Request<B>> for KeyGuardService<S, L>
where
    S: tower_service::Service<Request<B>, Response = Response<R>> + Clone,
    L: Admit,
{
    type Response = Response<ResponseBody<R>>;
    type Error = S::Error;
    type Future = ResponseFuture<S, B, S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let Self { inner, layer } = self;
        if !layer.may_wait() {
            return ResponseFuture::decided(layer, request, |request| inner.call(request));
        }
        let next = inner.clone();
        // `inner` is ready; its clone may not be.
        let ready = std::mem::replace(inner, next);
        ResponseFuture::deciding(layer, request, ready, |mut inner, request| {
            inner.call(request)
        })
    }
}

impl<S, L, B, R> hyper::service::Service<Request<B>> for KeyGuardService<S, L>
where
    S: hyper::service::Service<Request<B>, Response = Response<R>> + Clone,
    L: Admit,
{
    type Response = Response<ResponseBody<R>>;
    type Error = S::Error;
    type Future = ResponseFuture<S, B, S::Future>;

    fn call(&self, request: Request<B>) -> Self::Future {
        let Self { inner, layer } = self;
        if !layer.may_wait() {
            return ResponseFuture::decided(layer, request, |request| inner.call(request));
        }
        ResponseFuture::deciding(layer, request, inner.clone(), |inner, request| {
            inner.call(request)
        })
    }
}
