//! Requests.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::marker::PhantomData;
use std::num::NonZeroU32;

use crate::model::Method;
use crate::net::ClientIp;
use crate::policy::{CompiledPolicy, RouteMatch, path};

/// A set of header fields that can be looked up by name.
///
/// Names are compared case-insensitively (ASCII). Implemented for slices, arrays, vectors and
/// maps of pairs, for `()` as the empty set, and, with the feature `http`, for `http::HeaderMap`. For a
/// type of another crate, wrap a closure in [`HeaderFn`] or implement the one method.
///
/// ```
/// use keyguard::Headers;
///
/// /// The header block of a request, as it was sent.
/// struct HeaderBlock<'b>(&'b str);
///
/// impl Headers for HeaderBlock<'_> {
///     fn header_values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
///         let fields = self.0.lines().filter_map(|line| line.split_once(':'));
///         let named = fields.filter(move |(field, _)| field.eq_ignore_ascii_case(name));
///         named.map(|(_, value)| value.trim().as_bytes())
///     }
/// }
///
/// let headers = HeaderBlock("Host: localhost\r\nX-API-Key: kg_live_…\r\n");
/// assert_eq!(headers.header_values("x-api-key").count(), 1);
/// ```
pub trait Headers {
    /// Returns the values of all header fields of this name, in the order in which they were sent.
    fn header_values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]>;
}

/// The empty set, for protocols without header fields.
impl Headers for () {
    fn header_values<'a>(&'a self, _: &'a str) -> impl Iterator<Item = &'a [u8]> {
        std::iter::empty()
    }
}

impl<N: AsRef<str>, V: AsRef<[u8]>> Headers for [(N, V)] {
    fn header_values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        let named = move |(n, _): &&(N, V)| has_name(n.as_ref(), name);
        self.iter().filter(named).map(|(_, value)| value.as_ref())
    }
}

impl<N: AsRef<str>, V: AsRef<[u8]>, const LEN: usize> Headers for [(N, V); LEN] {
    fn header_values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.as_slice().header_values(name)
    }
}

impl<N: AsRef<str>, V: AsRef<[u8]>> Headers for Vec<(N, V)> {
    fn header_values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.as_slice().header_values(name)
    }
}

impl<N: AsRef<str>, V: AsRef<[u8]>, S> Headers for HashMap<N, V, S> {
    fn header_values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        let named = move |(n, _): &(&N, &V)| has_name(n.as_ref(), name);
        self.iter().filter(named).map(|(_, value)| value.as_ref())
    }
}

impl<N: AsRef<str>, V: AsRef<[u8]>> Headers for BTreeMap<N, V> {
    fn header_values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        let named = move |(n, _): &(&N, &V)| has_name(n.as_ref(), name);
        self.iter().filter(named).map(|(_, value)| value.as_ref())
    }
}

#[cfg(feature = "http")]
impl Headers for http::HeaderMap {
    fn header_values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.get_all(name).iter().map(http::HeaderValue::as_bytes)
    }
}

impl<H: Headers + ?Sized> Headers for &H {
    fn header_values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        (**self).header_values(name)
    }
}

/// Inlined, because most names differ in length.
#[inline(always)]
fn has_name(sent: &str, name: &str) -> bool {
    sent.len() == name.len() && is_same_name(sent, name)
}

#[inline(never)]
fn is_same_name(sent: &str, name: &str) -> bool {
    sent == name || sent.eq_ignore_ascii_case(name)
}

/// [`Headers`] from a closure that finds the values of a header by its name.
///
/// The closure must return all values of a field: a repeated key header must be refused.
///
/// ```
/// use keyguard::{HeaderFn, Headers};
///
/// let sent = [("Host", "localhost"), ("X-API-Key", "kg_live_…")];
/// let headers = HeaderFn::new(|name: &str| {
///     let name = name.to_owned();
///     sent.iter().filter(move |(n, _)| n.eq_ignore_ascii_case(&name)).map(|(_, v)| v.as_bytes())
/// });
/// assert_eq!(headers.header_values("x-api-key").count(), 1);
/// ```
pub struct HeaderFn<'h, F> {
    find: F,
    values: PhantomData<&'h [u8]>,
}

impl<'h, F, I> HeaderFn<'h, F>
where
    F: Fn(&str) -> I,
    I: IntoIterator<Item = &'h [u8]>,
{
    /// Creates headers that are looked up by `find`.
    pub fn new(find: F) -> Self {
        Self {
            find,
            values: PhantomData,
        }
    }
}

impl<'h, F, I> Headers for HeaderFn<'h, F>
where
    F: Fn(&str) -> I,
    I: IntoIterator<Item = &'h [u8]>,
{
    fn header_values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        (self.find)(name)
            .into_iter()
            .map(|value| -> &'a [u8] { value })
    }
}

impl<F> fmt::Debug for HeaderFn<'_, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HeaderFn").finish_non_exhaustive()
    }
}

/// A request for a decision.
///
/// ```
/// use std::net::Ipv4Addr;
/// use keyguard::Request;
///
/// let headers = [("X-API-Key", "kg_live_…")];
/// let peer = Ipv4Addr::LOCALHOST;
/// let request = Request::new(&headers, peer, "/orders?page=2").method("GET").scopes(&["read"]);
/// ```
pub struct Request<'a, H: ?Sized> {
    pub(super) headers: &'a H,
    pub(super) ip: ClientIp,
    /// Whether a trusted proxy named `ip`, which is then not the address of the peer.
    pub(super) is_named_by_proxy: bool,
    pub(super) path: &'a str,
    /// Further paths for which the request may have been sent.
    other_paths: &'a [String],
    pub(super) method: Method,
    pub(super) cost: Option<NonZeroU32>,
    pub(super) scopes: &'a [&'a str],
}

impl<'a, H: Headers + ?Sized> Request<'a, H> {
    /// Creates a request with `headers` from `ip` for `path`.
    ///
    /// `ip` is the address of the peer. If the peer is a
    /// [trusted proxy](crate::Policy::trusted_proxies), the client is read from the header field that
    /// the policy names. `path` is the request target as it was sent, undecoded; from `?` on it is
    /// dropped and never stored.
    pub fn new(headers: &'a H, ip: impl Into<ClientIp>, path: &'a str) -> Self {
        Self {
            headers,
            ip: ip.into(),
            is_named_by_proxy: false,
            path,
            other_paths: &[],
            method: Method::Other,
            cost: None,
            scopes: &[],
        }
    }

    /// Sets the method, as it was sent. It is recorded with the usage. A request without a method matches
    /// routes for any method.
    #[must_use]
    pub fn method(mut self, method: impl Into<Method>) -> Self {
        self.method = method.into();
        self
    }

    /// Marks the address as named by a trusted proxy, so that forwarding headers do not show that it is a
    /// proxy itself.
    #[cfg(feature = "serve")]
    #[must_use]
    pub(crate) fn named_by_proxy(mut self) -> Self {
        self.is_named_by_proxy = true;
        self
    }

    /// Adds paths for which the request may have been sent. The rules of all paths apply; the request is
    /// open or exempt only if all paths are.
    #[cfg(feature = "http")]
    #[must_use]
    pub(crate) fn other_paths(mut self, paths: &'a [String]) -> Self {
        self.other_paths = paths;
        self
    }

    /// Returns the routes of a policy that the request matches.
    #[inline(always)]
    pub(super) fn route_match<'p>(&self, policy: &'p CompiledPolicy) -> RouteMatch<'p> {
        let mut matched = policy.route_match(self.path, self.method);
        for path in self.other_paths {
            matched.add(policy.route_match(path, self.method));
        }
        matched
    }

    /// Whether the request may have been sent for a locked path; `None` if one of its paths has too many
    /// readings.
    pub(super) fn may_mean(&self, locked: &str, ignore_case: bool) -> Option<bool> {
        let others = self.other_paths.iter().map(String::as_str);
        let mut paths = std::iter::once(self.path).chain(others);
        paths.try_fold(false, |may_mean, path| {
            Some(may_mean | path::may_mean(path, locked, ignore_case)?)
        })
    }

    /// Sets the cost, which is consumed from every limit and quota. Default: the cost that the matching
    /// routes set, or 1.
    #[must_use]
    pub fn cost(mut self, cost: NonZeroU32) -> Self {
        self.cost = Some(cost);
        self
    }

    /// Sets the scopes that the key must have, all of them. Default: none.
    #[must_use]
    pub fn scopes(mut self, scopes: &'a [&'a str]) -> Self {
        self.scopes = scopes;
        self
    }
}

impl<H: ?Sized> Clone for Request<'_, H> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<H: ?Sized> Copy for Request<'_, H> {}

/// Shows neither the headers, which contain the key, nor the query, nor keys in the path.
impl<H: ?Sized> fmt::Debug for Request<'_, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("ip", &self.ip)
            .field("method", &self.method)
            .field("path", &path::shown(self.path))
            .field("cost", &self.cost)
            .field("scopes", &self.scopes)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_names_are_case_insensitive() {
        let pairs = [("x-api-key", "a"), ("Host", "h"), ("X-API-KEY", "b")];
        let found: Vec<_> = pairs.header_values("X-Api-Key").collect();
        assert_eq!(found, [b"a", b"b"]);
        let owned: HashMap<String, Vec<u8>> = [("X-API-Key".to_owned(), b"a".to_vec())].into();
        assert_eq!(
            owned.header_values("x-api-key").next(),
            Some(b"a".as_slice())
        );
    }

    #[cfg(feature = "http")]
    #[test]
    fn a_header_map_returns_every_value() {
        let mut map = http::HeaderMap::new();
        map.append("x-api-key", http::HeaderValue::from_static("a"));
        map.append("x-api-key", http::HeaderValue::from_static("b"));
        assert_eq!(map.header_values("X-API-Key").count(), 2);
    }
}
