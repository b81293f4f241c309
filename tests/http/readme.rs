//! The Rust code of `README.md` compiles. Nothing of it is run.

#![allow(dead_code, unused_variables)]

use std::error::Error;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;

use axum::Router;
use axum::routing::{get, post};
use keyguard::http::{AdminService, Authenticated, IpLimitLayer, KeyGuardLayer};
use keyguard::{
    Config, CreateKey, IpLimit, JsonLines, KeyGuard, KeyId, ListUsage, Org, Request, RotateKey,
    UpdateKey, UpdateOrg,
};
use tokio::net::TcpListener;

type Headers<'a> = &'a [(&'a str, &'a str)];
type Done = Result<(), Box<dyn Error>>;

/// Each block is in this file as it is in the README, but for white space and comments.
#[test]
fn rust_blocks_compile() {
    let source = code_of(include_str!("readme.rs"));
    let readme = include_str!("../../README.md");
    let blocks: Vec<_> = readme.split("```rust\n").skip(1).collect();
    assert_eq!(blocks.len(), 9);
    for block in blocks {
        let (block, _) = block.split_once("```").unwrap();
        assert!(source.contains(&code_of(block)), "{block}");
    }
}

fn code_of(text: &str) -> String {
    let lines = text.lines().map(|line| line.split(" //").next().unwrap_or(line));
    lines.flat_map(str::split_whitespace).collect()
}

fn protect(headers: Headers<'_>, ip: IpAddr, path: &str) -> Done {
    let kg = KeyGuard::open("keyguard.redb", Config::default())?;
    match kg.check(&headers, ip, path) {
        Ok(grant)   => { /* serve, with grant.headers() */ grant.finish(200) }
        Err(denial) => { /* respond with denial.status(), denial.headers(), denial.problem() */ }
    }
    Ok(())
}

fn require(kg: &KeyGuard, (headers, ip, path): (Headers<'_>, IpAddr, &str), cost: NonZeroU32) -> Done {
    let request = Request::new(&headers, ip, path).method("POST").cost(cost).scopes(&["orders:write"]);
    let grant = kg.decide(request)?;
    grant.require("orders:admin")?;
    Ok(())
}

fn limit(
    (kg, org, id): (&KeyGuard, Org, KeyId),
    (headers, ip, path): (Headers<'_>, IpAddr, &str),
    (reserved, actual): (NonZeroU32, u64),
) -> Done {
    kg.admin().update_org(UpdateOrg::new(org.id).limits(["1000/s", "20000 daily"]))?;
    let grant = kg.decide(Request::new(&headers, ip, path).cost(reserved))?;
    grant.settle(actual);
    kg.admin().key_limits(id)?;
    kg.admin().reset_key(id, Some("10/s"))?;
    kg.admin().override_limit(id, "default", "1 hour")?;
    Ok(())
}

fn lock_out(kg: &KeyGuard, (headers, ip, path): (Headers<'_>, IpAddr, &str)) -> Done {
    let login = IpLimit::new("login", "3/min")?.lockout("5 minutes")?;
    kg.check_ip(&login, Request::new(&headers, ip, path))?;
    kg.admin().block(ip, None, "4:00 PM")?;
    kg.admin().unblock(ip, None)?;
    for lock in kg.admin().list_blocks() { println!("{} until {}", lock.ip, lock.until); }
    Ok(())
}

fn manage(kg: &KeyGuard) -> Done {
    let admin = kg.admin();
    admin.create_org("acme")?;
    let key = CreateKey::new("acme", "web shop")
        .scopes(["read"])
        .rate_limit_per_minute(600)
        .limits(["10/s", "100000 monthly"])
        .allowed_ips(["192.0.2.0/24"]);
    let created = admin.create_key(key)?;
    println!("{}", created.raw_key.expose());

    let id = created.key.id;
    admin.update_key(UpdateKey::new(id).rate_limit_per_minute(60))?;
    admin.rotate_key(RotateKey::new(id))?;
    admin.revoke_key(id)?;
    admin.suspend_org(created.key.org_id)?;
    Ok(())
}

async fn layers(kg: KeyGuard, login: IpLimit, listener: TcpListener) -> Done {
    async fn log_in() {}
    let app = Router::new()
        .route("/api/data", get(|Authenticated(grant): Authenticated| async move { format!("{:?}", grant.org()) }))
        .layer(KeyGuardLayer::new(kg.clone()))
        .route("/login", post(log_in).layer(IpLimitLayer::new(kg.clone(), login)))
        .fallback_service(AdminService::new(kg));              // /admin/…; with feature openapi also /docs
    axum::serve(listener, app.into_make_service_with_connect_info::<SocketAddr>()).await?;
    Ok(())
}

fn usage(kg: &KeyGuard, id: KeyId) -> Done {
    let stats = kg.admin().stats()?;
    println!("{} requests, {:.1} % errors", stats.requests, 100.0 * stats.error_rate());
    for usage in kg.admin().list_usage(ListUsage::new().key_id(id))? {
        println!("{} {} {} {}", usage.at, usage.ip, usage.path, usage.status);
    }
    Ok(())
}

fn sink() -> Result<Config, Box<dyn Error>> {
    let config = Config::default().usage_sink(JsonLines::append("usage.ndjson")?);
    Ok(config)
}

#[cfg(feature = "redis")]
async fn several_processes(headers: Headers<'_>, ip: IpAddr, path: &str) -> Done {
    let config = Config::default().redis_url("redis://localhost");
    let kg = KeyGuard::open("postgres://keyguard:…@localhost/keyguard", config)?;
    let grant = kg.decide_async(Request::new(&headers, ip, path)).await?;
    Ok(())
}
