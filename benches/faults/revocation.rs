//! The time until a revocation takes effect on another node.

use std::error::Error;
use std::time::{Duration, Instant};

use keyguard::CreateKey;

use crate::load::Load;
use crate::world::{IP, World};

/// Measures the p99 of revocations while both nodes are under load.
pub(crate) fn measure(world: &World, count: usize) -> Result<Duration, Box<dyn Error>> {
    let load = Load::start(world);
    let mut times = Vec::with_capacity(count);
    for _ in 0..count {
        times.push(revoke(world)?);
    }
    load.stop();
    times.sort_unstable();
    let at = |part: usize| times[(count * part).div_ceil(100) - 1];
    println!(
        "revocation: {count} under load, from its return on one node to the first refusal on the \
         other p50 {:.2} ms, p99 {:.2} ms, max {:.2} ms",
        at(50).as_secs_f64() * 1_000.0,
        at(99).as_secs_f64() * 1_000.0,
        at(100).as_secs_f64() * 1_000.0
    );
    Ok(at(99))
}

fn revoke(world: &World) -> Result<Duration, Box<dyn Error>> {
    let (here, there) = (&world.nodes[0], &world.nodes[1]);
    let request = CreateKey::new("acme", "to be revoked").rate_limit_per_minute(1_000_000);
    let created = here.admin().create_key(request)?;
    let headers = [("X-API-Key", created.raw_key.expose())];
    // The other node has cached the key.
    while there.check(&headers, IP, "/").is_err() {}
    here.admin().revoke_key(created.key.id)?;
    let revoked = Instant::now();
    let status = || {
        there
            .check(&headers, IP, "/")
            .err()
            .map(|denial| denial.status())
    };
    while status() != Some(401) {
        if revoked.elapsed() > Duration::from_secs(10) {
            return Err("the other node never heard of a revocation".into());
        }
    }
    let time = revoked.elapsed();
    match status() {
        Some(401) => Ok(time),
        again => Err(format!("a revoked key was answered {again:?} again").into()),
    }
}
