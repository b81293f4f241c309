//! The middleware: two layers, and the service, future and body that they share.

mod body;
mod decisions;
mod future;
mod ip_limit;
mod key_guard;
mod paths;
mod service;

use std::future::Future;
use std::sync::Arc;

use http::request::Parts;
use http::{HeaderMap, HeaderName, Response};

pub use self::body::ResponseBody;
pub use self::future::ResponseFuture;
pub use self::ip_limit::{IpLimitLayer, LimitedClient};
pub use self::key_guard::KeyGuardLayer;
pub use self::service::KeyGuardService;
use crate::guard::Grant;

/// A layer that admits or refuses requests. Sealed: implemented by the layers of this module.
pub trait Admit: Clone + Send + Sync + 'static {
    /// Whether [`Admit::admit`] may wait for another server.
    fn may_wait(&self) -> bool;

    /// Admits a request, with a grant if it needs one, or refuses it with a response.
    fn admit(&self, head: &mut Parts) -> impl Future<Output = Admission> + Send;
}

type Admission = Result<Option<Arc<Grant>>, Box<Response<String>>>;

/// Removes the header fields that only a proxy may set. CGI and WSGI servers read `_` as `-`.
fn remove_identity(headers: &mut HeaderMap) {
    const PREFIX: &[u8] = b"x-keyguard-";
    let is_identity = |name: &&HeaderName| {
        let start = name.as_str().as_bytes().get(..PREFIX.len());
        start.is_some_and(|start| {
            let mut bytes = start.iter().zip(PREFIX);
            bytes.all(|(byte, own)| byte == own || (*byte == b'_' && *own == b'-'))
        })
    };
    while let Some(name) = headers.keys().find(is_identity).cloned() {
        headers.remove(name);
    }
}
