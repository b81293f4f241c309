//! Requests that are carried out once, and who makes them.

use http::Method;
use http::request::Parts;

use crate::admin::{Admin, AuditActor};
use crate::http::problem::Problem;
use crate::keyguard::KeyGuard;
use crate::net::ClientIp;
use crate::store::IdempotencyKey;

/// Returns a handle whose changes the audit log attributes to the client, with the idempotency key of
/// the request.
pub(super) fn acting_for(
    guard: &KeyGuard,
    parts: &Parts,
    body: &[u8],
    client: ClientIp,
) -> Result<Admin, Problem> {
    const NAME: &str = "Idempotency-Key";
    let mut values = parts.headers.get_all(NAME).iter();
    let idempotency_key = match (values.next(), values.next()) {
        (None, _) => None,
        (Some(name), None) if is_idempotency_key(name.as_bytes()) => {
            let mut request = blake3::Hasher::new();
            request.update(parts.method.as_str().as_bytes());
            request.update(b" ");
            request.update(parts.uri.path().as_bytes());
            request.update(b"\n");
            request.update(body);
            Some(IdempotencyKey {
                name: *blake3::hash(name.as_bytes()).as_bytes(),
                request: *request.finalize().as_bytes(),
            })
        }
        _ => {
            let detail = format!("{NAME}: expected one value of 1 to 255 visible ASCII characters");
            return Err(Problem::invalid(NAME, detail));
        }
    };
    let idempotency_key = idempotency_key.filter(|_| parts.method == Method::POST);
    let actor = AuditActor::new("admin key".into(), client, idempotency_key);
    Ok(guard.admin().with_actor(actor))
}

fn is_idempotency_key(text: &[u8]) -> bool {
    (1..=255).contains(&text.len()) && text.iter().all(u8::is_ascii_graphic)
}
