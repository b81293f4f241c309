//! The layers and the extractor in axum routers (feature `axum`).

use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll};

use crate::common::server::{HttpResponse, get as fetch};
use crate::common::{Home, key, key_limited_to, key_with};
use axum::extract::Extension;
use axum::routing::get;
use axum::{Router, serve};
use keyguard::http::{Authenticated, IpLimitLayer, KeyGuardLayer};
use keyguard::{
    ClientIp, CreateKey, Denial, Grant, IpLimit, KeyGuard, ListUsage, LockDuration, Policy,
};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

pub(crate) struct Served {
    pub(crate) address: String,
    _runtime: Runtime,
}

impl Served {
    pub(crate) fn new(app: Router) -> Self {
        let runtime = Runtime::new().unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let app = app.into_make_service_with_connect_info::<SocketAddr>();
        runtime.spawn(async move { serve(listener, app).await });
        Self {
            address,
            _runtime: runtime,
        }
    }

    /// Sends a request as a proxy does.
    fn get_for(&self, chain: &str, key: &str) -> u16 {
        let fields = [("X-Forwarded-For", chain), ("X-API-Key", key)];
        fetch(&self.address, "/data", &fields).status
    }

    fn get(&self, target: &str, key: Option<&str>) -> HttpResponse {
        let fields = key.map(|key| ("X-API-Key", key));
        fetch(&self.address, target, fields.as_slice())
    }
}

/// Returns the id of the key.
async fn key_id(Extension(grant): Extension<Arc<Grant>>) -> String {
    format!("{:?}", grant.key().map(|key| key.id.0))
}

fn protecting(home: &Home, path: &str) -> KeyGuard {
    let policy = Policy::new().protect(path);
    home.open_with(home.config().policy(policy))
}

#[test]
fn layer_in_a_nested_router_uses_the_original_path() {
    let home = Home::new();
    let kg = protecting(&home, "/api");
    let good = key(&kg);
    let layer = KeyGuardLayer::new(kg.clone());
    let data = || Router::new().route("/data", get(key_id));
    let app = Router::new()
        .nest("/api", data().layer(layer.clone()))
        .nest(
            "/api/v1",
            Router::new().nest("/deep", data().layer(layer.clone())),
        )
        .nest("/web", data().layer(layer.clone()))
        .nest_service("/api/service", data().layer(layer));
    let served = Served::new(app);
    for target in ["/api/data", "/api/v1/deep/data", "/api/service/data"] {
        assert_eq!(served.get(target, None).status, 401, "{target}");
        let admitted = served.get(target, Some(good.raw_key.expose()));
        assert_eq!(admitted.body, format!("Some({})", good.key.id), "{target}");
    }
    assert_eq!(served.get("/web/data", None).body, "None");
    let usage = kg.admin().list_usage(ListUsage::new()).unwrap();
    let mut paths: Vec<&str> = usage.iter().map(|usage| usage.path.as_str()).collect();
    // Several threads serve connections, and usage is recorded after the response.
    paths.sort_unstable();
    let expected = ["/api/data", "/api/service/data", "/api/v1/deep/data"];
    assert_eq!(paths, expected);
    assert_eq!(kg.admin().stats().unwrap().warnings, [""; 0]);
}

/// A service that is not part of axum removes `/v1`; the prefix may contain the nested router, too.
#[test]
fn removed_prefix_precedes_the_nested_prefix() {
    for prefix in ["/v1", "/v1/api"] {
        let home = Home::new();
        let kg = protecting(&home, "/v1/api");
        let layer = KeyGuardLayer::new(kg.clone()).prefix(prefix);
        let data = || {
            Router::new()
                .route("/data", get(key_id))
                .layer(layer.clone())
        };
        let app = Router::new().nest("/api", data()).nest("/{other}", data());
        let served = Served::new(app);
        assert_eq!(served.get("/api/data", None).status, 401, "{prefix}");
    }
    let home = Home::new();
    let kg = protecting(&home, "/v1");
    let layer = KeyGuardLayer::new(kg.clone()).prefix("/v1");
    let served = Served::new(Router::new().route("/data", get(key_id)).layer(layer));
    assert_eq!(served.get("/data", None).status, 401);
}

#[test]
fn route_below_a_captured_segment_uses_the_segment() {
    let home = Home::new();
    let kg = protecting(&home, "/acme");
    let root = Router::new()
        .route("/", get(key_id))
        .route("/data", get(key_id));
    let served = Served::new(Router::new().nest("/{org}", root.layer(KeyGuardLayer::new(kg))));
    for (target, status) in [
        ("/acme/data", 401),
        ("/acme", 401),
        ("/other/data", 200),
        ("/other", 200),
    ] {
        assert_eq!(served.get(target, None).status, status, "{target}");
    }
}

/// In front of the layer, and between two layers.
#[test]
fn rewritten_path_is_the_requested_path() {
    let rewrite = |mut request: axum::extract::Request| async move {
        let path = request.uri().path().replace("/legacy", "/api");
        *request.uri_mut() = path.parse().unwrap();
        request
    };
    for is_between in [false, true] {
        let home = Home::new();
        let kg = protecting(&home, "/api");
        let layer = KeyGuardLayer::new(kg);
        let app = Router::new()
            .fallback(key_id)
            .layer(layer.clone())
            .layer(axum::middleware::map_request(rewrite));
        let app = if is_between { app.layer(layer) } else { app };
        let served = Served::new(app);
        assert_eq!(served.get("/legacy/data", None).status, 401, "{is_between}");
        assert_eq!(served.get("/other", None).status, 200, "{is_between}");
    }
}

#[test]
fn request_through_several_layers_counts_once() {
    let home = Home::new();
    let kg = protecting(&home, "/api");
    let good = key_limited_to(&kg, 2);
    let layer = KeyGuardLayer::new(kg.clone());
    let inner = Router::new()
        .route("/data", get(key_id))
        .layer(layer.clone());
    let served = Served::new(Router::new().nest("/api", inner).layer(layer));
    for left in ["1", "0"] {
        let admitted = served.get("/api/data", Some(good.raw_key.expose()));
        assert_eq!(admitted.status, 200);
        assert_eq!(admitted.field("x-ratelimit-remaining"), left);
        assert_eq!(admitted.body, format!("Some({})", good.key.id));
    }
    let limited = served.get("/api/data", Some(good.raw_key.expose()));
    assert_eq!(limited.status, 429);
    assert_eq!(kg.admin().stats().unwrap().requests, 3);
}

#[test]
fn ip_limit_uses_locks_of_the_original_path() {
    let home = Home::new();
    let kg = home.open();
    let limit = IpLimit::new("login", "100/min").unwrap();
    let layer = IpLimitLayer::new(kg.clone(), limit);
    let welcome = || get(|| async { "welcome" });
    let inner = Router::new()
        .route("/login", welcome())
        .route("/other", welcome());
    let served = Served::new(Router::new().nest("/auth", inner.layer(layer)));
    assert_eq!(served.get("/auth/login", None).status, 200);
    let client: ClientIp = "127.0.0.1".parse().unwrap();
    let hour: LockDuration = "1 hour".parse().unwrap();
    kg.admin().block(client, Some("/auth/login"), hour).unwrap();
    assert_eq!(served.get("/auth/login", None).status, 403);
    assert_eq!(served.get("/auth/other", None).status, 200);
}

#[test]
fn authenticated_extracts_the_grant_of_a_key() {
    async fn write(Authenticated(grant): Authenticated) -> Result<String, Denial> {
        grant.require("write")?;
        Ok("written".into())
    }
    async fn optional(grant: Option<Authenticated>) -> String {
        format!("{:?}", grant.and_then(|grant| Some(grant.key()?.id.0)))
    }
    let home = Home::new();
    let kg = protecting(&home, "/api");
    let reader = key(&kg);
    let writer = key_with(&kg, |key| key.scopes(vec!["write"]));
    let routes = || {
        Router::new()
            .route("/write", get(write))
            .route("/optional", get(optional))
    };
    let protected = Router::new()
        .nest("/api", routes())
        .nest("/open", routes())
        .layer(KeyGuardLayer::new(kg));
    let served = Served::new(protected.nest("/bare", routes()));
    let writer = Some(writer.raw_key.expose());
    assert_eq!(served.get("/api/write", writer).body, "written");
    let refused = served.get("/api/write", Some(reader.raw_key.expose()));
    assert_eq!(refused.status, 403);
    assert!(refused.body.contains("missing_scope"), "{}", refused.body);
    let id = format!("Some({})", reader.key.id);
    let optional = served.get("/api/optional", Some(reader.raw_key.expose()));
    assert_eq!(optional.body, id);

    // The policy needs no key here, so none is read.
    let open = served.get("/open/write", writer);
    assert_eq!((open.status, open.has("www-authenticate")), (401, true));
    assert!(open.body.contains("missing_key"), "{}", open.body);
    assert_eq!(served.get("/open/optional", writer).body, "None");

    for target in ["/bare/write", "/bare/optional"] {
        let bare = served.get(target, writer);
        assert_eq!(bare.status, 500, "{target}");
        assert_eq!(bare.field("content-type"), "application/problem+json");
        assert!(bare.body.contains("KeyGuardLayer"), "{}", bare.body);
    }
}

/// Removes `/v1` from request paths, like services that are not part of axum.
#[derive(Clone)]
struct WithoutV1(Router);

impl tower_service::Service<axum::extract::Request> for WithoutV1 {
    type Response = axum::response::Response;
    type Error = std::convert::Infallible;
    type Future = <Router as tower_service::Service<axum::extract::Request>>::Future;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: axum::extract::Request) -> Self::Future {
        let path = request.uri().path();
        let rest = path.strip_prefix("/v1").unwrap_or(path).to_owned();
        *request.uri_mut() = rest.parse().unwrap();
        self.0.call(request)
    }
}

/// Three mounts once failed open: a prefix that starts another segment, and a service within a nested
/// router that removes a prefix, with and without `KeyGuardLayer::prefix`.
#[test]
fn ambiguous_path_is_decided_by_all_its_readings() {
    let data = |kg: KeyGuard, prefix: &str| {
        let layer = KeyGuardLayer::new(kg).prefix(prefix);
        Router::new().route("/data", get(key_id)).layer(layer)
    };
    let home = Home::new();
    let app = Router::new().nest("/admin", data(protecting(&home, "/a"), "/a"));
    assert_eq!(Served::new(app).get("/admin/data", None).status, 401);
    for (prefix, protected) in [
        ("/v1", "/api"),
        ("/api/v1", "/api/v1/data"),
        ("", "/api/v1"),
    ] {
        let home = Home::new();
        let inner = WithoutV1(data(protecting(&home, protected), prefix));
        let served = Served::new(Router::new().nest_service("/api", inner));
        let response = served.get("/api/v1/data", None);
        assert_eq!(response.status, 401, "{prefix} {protected}");
    }
}

#[test]
fn ambiguous_path_is_open_only_if_all_its_readings_are() {
    for (open, status) in [("/api", 200), ("/api/v1", 401)] {
        let home = Home::new();
        let policy = format!("[[route]]\nname = \"open\"\npath = \"{open}\"\nprotect = false");
        let kg = home.open_with(home.config().policy(policy.parse().unwrap()));
        let router = Router::new().route("/data", get(key_id));
        let inner = WithoutV1(router.layer(KeyGuardLayer::new(kg)));
        let served = Served::new(Router::new().nest_service("/api", inner));
        assert_eq!(served.get("/api/v1/data", None).status, status, "{open}");
    }
}

/// The outer layer must not make the client that a proxy names the peer of the inner layer: keys of two
/// organizations would show that it is a proxy.
#[test]
fn client_named_by_a_proxy_is_locked_behind_an_ip_limit() {
    for has_limit in [false, true] {
        let home = Home::new();
        let policy = "trusted_proxies = [\"127.0.0.0/8\"]\n[lockout]\nthreshold = 3";
        let kg = home.open_with(home.config().policy(policy.parse().unwrap()));
        let keys = ["one", "two"].map(|org| {
            kg.admin().create_org(org).unwrap();
            kg.admin()
                .create_key(CreateKey::new(org, "shop"))
                .unwrap()
                .raw_key
        });
        let app = Router::new().route("/data", get(key_id));
        let mut app = app.layer(KeyGuardLayer::new(kg.clone()));
        if has_limit {
            let limit = IpLimit::new("all", "1000/min").unwrap();
            app = app.layer(IpLimitLayer::new(kg.clone(), limit));
        }
        let served = Served::new(app);
        let (first, second) = ("1.1.1.1, 203.0.113.9", "2.2.2.2, 203.0.113.9");
        assert_eq!(served.get_for(first, "nonsense"), 401);
        assert_eq!(served.get_for(first, keys[0].expose()), 200);
        assert_eq!(served.get_for(second, keys[1].expose()), 200);
        for _ in 0..3 {
            assert_eq!(served.get_for(first, "nonsense"), 401);
        }
        assert_eq!(served.get_for(second, keys[1].expose()), 403, "{has_limit}");
    }
}
