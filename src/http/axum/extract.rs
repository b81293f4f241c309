//! The extractor, and denials as responses of handlers.

use std::ops::Deref;
use std::sync::Arc;

use axum::extract::{FromRequestParts, OptionalFromRequestParts};
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::request::Parts;

use crate::guard::{Denial, Grant};
use crate::http::problem::Problem;

/// Extracts the grant of a request with an accepted key, behind a
/// [`KeyGuardLayer`](crate::http::KeyGuardLayer).
///
/// `Option<Authenticated>` is `None` where the policy needs no key. `Extension<Arc<Grant>>` extracts
/// the grant in both cases.
///
/// ```
/// use axum::Router;
/// use axum::routing::get;
/// use keyguard::http::{Authenticated, KeyGuardLayer};
/// use keyguard::{Denial, KeyGuard};
///
/// async fn orders(Authenticated(grant): Authenticated) -> Result<String, Denial> {
///     grant.require("orders:read")?;
///     Ok(format!("orders of {}", grant.org().map_or("", |org| &org.name)))
/// }
///
/// fn app(kg: KeyGuard) -> Router {
///     Router::new()
///         .route("/orders", get(orders))
///         .layer(KeyGuardLayer::new(kg))
/// }
/// ```
#[derive(Clone, Debug)]
pub struct Authenticated(pub Arc<Grant>);

impl Deref for Authenticated {
    type Target = Grant;

    fn deref(&self) -> &Grant {
        &self.0
    }
}

impl<S: Sync> FromRequestParts<S> for Authenticated {
    type Rejection = AuthenticatedRejection;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        let authenticated = Self::in_extensions(parts)?;
        authenticated.ok_or_else(|| AuthenticatedRejection::MissingKey(Denial::missing_key(None)))
    }
}

impl<S: Sync> OptionalFromRequestParts<S> for Authenticated {
    type Rejection = AuthenticatedRejection;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Option<Self>, Self::Rejection> {
        Self::in_extensions(parts)
    }
}

impl Authenticated {
    /// Returns the grant in the extensions if it has a key.
    fn in_extensions(parts: &Parts) -> Result<Option<Self>, AuthenticatedRejection> {
        let grant = parts.extensions.get::<Arc<Grant>>();
        let grant = grant.ok_or(AuthenticatedRejection::MissingLayer)?;
        let has_key = grant.key().is_some();
        Ok(has_key.then(|| Self(Arc::clone(grant))))
    }
}

/// The reason why [`Authenticated`] cannot be extracted; its response is a problem document.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AuthenticatedRejection {
    /// No [`KeyGuardLayer`](crate::http::KeyGuardLayer) is around the route. Status 500.
    #[error("the extractor `Authenticated` needs a `KeyGuardLayer` around the route")]
    MissingLayer,
    /// The grant has no key, because the policy needs none at this path. Status 401.
    #[error("the policy needs no key at this path, but the extractor `Authenticated` does")]
    MissingKey(Denial),
}

impl IntoResponse for AuthenticatedRejection {
    fn into_response(self) -> Response {
        let status = StatusCode::INTERNAL_SERVER_ERROR;
        match &self {
            Self::MissingLayer => {
                Problem::new(status, "layer_missing", format!("{self}.")).into_response()
            }
            Self::MissingKey(denial) => denial.response(),
        }
    }
}

/// The response of [`Denial::response`], so that handlers can use `?` on
/// [`Grant::require`].
impl IntoResponse for Denial {
    fn into_response(self) -> Response {
        self.response()
    }
}
