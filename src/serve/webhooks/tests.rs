//! Deliveries to a receiver, under a manual clock.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use keyguard_test_support::wait_until;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use super::*;
use crate::admin::command::{Command, SendTestEvent};
use crate::admin::{CreateKey, RotateKey, UpdateKey, UpdateOrg};
use crate::guard::Config;
use crate::model::{Delivery, DeliveryState, KeyId};
use crate::net::ClientIp;
use crate::time::{ManualClock, Timestamp};

const SECRET: &str = "a secret of these tests, of 32 bytes or more";
const SIGNING_SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(86_400);

/// 2026-01-15T12:00:00Z
const NOON: Timestamp = Timestamp::from_unix_millis(1_768_478_400_000);

/// A receiver that answers each request with the next of its answers, and then with the last one again.
struct Peer {
    address: SocketAddr,
    received: Arc<Mutex<Vec<(String, String)>>>,
    answers: Arc<Mutex<Vec<&'static str>>>,
}

impl Peer {
    fn answering(answers: &[&'static str]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let peer = Self {
            address: listener.local_addr().unwrap(),
            received: Arc::default(),
            answers: Arc::new(Mutex::new(answers.to_vec())),
        };
        let (received, answers) = (Arc::clone(&peer.received), Arc::clone(&peer.answers));
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let (head, body) = read_request(&mut stream);
                received.lock().push((head, body));
                let mut answers = answers.lock();
                let answer = match answers.len() {
                    1 => answers[0],
                    _ => answers.remove(0),
                };
                let _ = stream.write_all(format!("HTTP/1.1 {answer}\r\n\r\n").as_bytes());
            }
        });
        peer
    }

    fn url(&self) -> String {
        format!("http://{}/events", self.address)
    }

    /// The value of a field in each request.
    fn fields(&self, name: &str) -> Vec<String> {
        let received = self.received.lock();
        let field = |(head, _): &(String, String)| {
            let mut lines = head.lines();
            let line = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
            line.unwrap().to_owned()
        };
        received.iter().map(field).collect()
    }

    fn count(&self) -> usize {
        self.received.lock().len()
    }
}

fn read_request(stream: &mut TcpStream) -> (String, String) {
    let mut text = String::new();
    loop {
        let mut chunk = [0; 4_096];
        let read = stream.read(&mut chunk).unwrap();
        text += std::str::from_utf8(&chunk[..read]).unwrap();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let mut lines = head.lines();
            let length = lines.find_map(|line| line.strip_prefix("content-length: "));
            if body.len() == length.unwrap().parse::<usize>().unwrap() {
                return (head.to_owned(), body.to_owned());
            }
        }
        assert!(read > 0, "the request is cut off: {text}");
    }
}

/// A guard with webhooks, and the tasks that send its events.
struct World {
    /// Ends the tasks when dropped.
    end: Option<watch::Sender<()>>,
    runtime: Runtime,
    status: Arc<WebhookStatus>,
    guard: KeyGuard,
    clock: ManualClock,
    dir: TempDir,
}

fn settings(url: &str, allow_private: bool) -> WebhookSettings {
    WebhookSettings {
        webhooks: vec![url.to_owned()],
        webhook_secret_file: None,
        webhook_allow_private: allow_private,
        webhook_ca: None,
    }
}

impl World {
    /// Events are stored for a webhook that nobody sends to.
    fn without_tasks() -> Self {
        let clock = ManualClock::starting_at(NOON);
        Self::in_dir(TempDir::new().unwrap(), clock, "https://example.com/events")
    }

    fn in_dir(dir: TempDir, clock: ManualClock, url: &str) -> Self {
        let config = Config::new(SECRET)
            .clock(clock.clone())
            .socket(false)
            .lockout_threshold(3)
            .webhooks(vec![url.to_owned()]);
        let guard = KeyGuard::open(dir.path().join("keyguard.redb"), config).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .unwrap();
        Self {
            dir,
            clock,
            guard,
            runtime,
            status: Arc::default(),
            end: None,
        }
    }

    /// Sends events, also to private addresses.
    fn sending_to(url: &str) -> Self {
        Self::sending(url, |webhooks| webhooks)
    }

    fn sending(url: &str, change: impl FnOnce(Webhooks) -> Webhooks) -> Self {
        let clock = ManualClock::starting_at(NOON);
        let mut world = Self::in_dir(TempDir::new().unwrap(), clock, url);
        let secret = world.dir.path().join("keyguard.redb.webhook-secret");
        let data = world.dir.path().join("keyguard.redb");
        let given = Ok(Secret::from(SIGNING_SECRET));
        write_secret(&secret, &data, given).unwrap();
        let webhooks = settings(url, true).prepare(Some(&data)).unwrap().unwrap();
        let webhooks = change(webhooks);
        let (ended, end) = watch::channel(());
        world.status = Arc::new(Webhooks::status(Some(&webhooks)));
        let mut tasks = JoinSet::new();
        let entered = world.runtime.enter();
        webhooks.start(&world.guard, &mut tasks, &world.status, &end);
        tasks.detach_all();
        world.end = Some(ended);
        drop(entered);
        world
    }

    fn test(&self) {
        SendTestEvent {}.run(&self.guard.admin()).unwrap();
    }

    /// Stores what the writer has seen.
    fn flush(&self) {
        self.guard.admin().stats().unwrap();
    }

    fn deliveries(&self) -> Vec<Delivery> {
        let mut deliveries = self.guard.inner.store().deliveries(None, 999).unwrap();
        deliveries.reverse();
        deliveries
    }

    fn only(&self) -> Delivery {
        let mut deliveries = self.deliveries();
        assert_eq!(deliveries.len(), 1, "{deliveries:?}");
        deliveries.remove(0)
    }

    /// The types of all events, and their data.
    fn events(&self) -> Vec<(String, Value)> {
        let deliveries = self.deliveries().into_iter();
        let event = |delivery: Delivery| {
            let body: Value = serde_json::from_str(&delivery.body).unwrap();
            assert_eq!(body["type"], delivery.kind);
            (delivery.kind, body["data"].clone())
        };
        deliveries.map(event).collect()
    }

    fn types(&self) -> Vec<String> {
        self.events().into_iter().map(|(kind, _)| kind).collect()
    }

    /// Creates a key; returns its text.
    fn key(&self, change: impl FnOnce(CreateKey) -> CreateKey) -> String {
        let admin = self.guard.admin();
        let _ = admin.create_org("acme");
        let created = admin.create_key(change(CreateKey::new("acme", "shop")));
        created.unwrap().raw_key.expose().to_owned()
    }

    fn check(&self, key: &str, times: usize) {
        for _ in 0..times {
            let peer = std::net::IpAddr::from([192, 0, 2, 7]);
            let _ = self.guard.check(&[("X-API-Key", key)], peer, "/");
        }
        self.flush();
    }
}

#[test]
fn event_is_delivered_with_a_valid_signature() {
    let peer = Peer::answering(&["204 No Content"]);
    let world = World::sending_to(&peer.url());
    world.test();
    wait_until(|| world.only().state == DeliveryState::Delivered);
    let delivery = world.only();
    assert_eq!(delivery.answer.as_deref(), Some("204 No Content"));
    let (head, body) = peer.received.lock()[0].clone();
    assert!(head.starts_with("POST /events HTTP/1.1\r\n"), "{head}");
    assert_eq!(peer.fields("host"), [peer.address.to_string()]);
    assert_eq!(peer.fields("content-type"), ["application/json"]);
    assert_eq!(peer.fields("webhook-id"), [delivery.event_id.as_str()]);
    assert_eq!(body, delivery.body);
    let seconds = NOON.unix_millis() / 1_000;
    assert_eq!(peer.fields("webhook-timestamp"), [seconds.to_string()]);
    let secrets = SigningSecrets::parse(&SIGNING_SECRET.into()).unwrap();
    let expected = secrets.sign(&delivery.event_id, seconds, &body);
    assert_eq!(peer.fields("webhook-signature"), [expected]);
}

#[test]
fn failed_attempts_are_repeated_by_the_schedule_with_the_same_id() {
    let away = "503 Service Unavailable\r\nContent-Length: 0";
    let moved = "302 Found\r\nLocation: /elsewhere\r\nContent-Length: 0";
    let peer = Peer::answering(&[away, moved, away, away, "200 OK"]);
    let world = World::sending_to(&peer.url());
    world.test();
    let minute = 60 * SECOND;
    for (attempts, pause) in [
        (1, 5 * SECOND),
        (2, 5 * minute),
        (3, 30 * minute),
        (4, 2 * HOUR),
    ] {
        wait_until(|| world.only().attempts == attempts);
        let delivery = world.only();
        assert_eq!(delivery.state, DeliveryState::Pending);
        let next = delivery.next_attempt_at.unwrap();
        let pauses = next.since(world.clock.timestamp());
        assert!(
            pauses >= pause && pauses <= pause.mul_f64(1.1),
            "{pauses:?}"
        );
        assert_eq!(peer.count(), attempts as usize);
        world.clock.advance(pauses);
    }
    wait_until(|| world.only().state == DeliveryState::Delivered);
    let ids = peer.fields("webhook-id");
    assert_eq!(ids, vec![world.only().event_id; 5]);
    let times = peer.fields("webhook-timestamp");
    assert!(times.is_sorted() && times[0] != times[4], "{times:?}");
    // A redirect is not followed.
    assert!(
        peer.received
            .lock()
            .iter()
            .all(|(head, _)| head.starts_with("POST /events "))
    );
    let counts = world.status.counts();
    assert_eq!(counts, [1, 4, 0]);
}

#[test]
fn after_the_last_attempt_a_delivery_has_failed() {
    let peer = Peer::answering(&["500 Internal Server Error\r\nContent-Length: 0"]);
    let world = World::sending_to(&peer.url());
    world.test();
    for attempts in 1..=9 {
        wait_until(|| world.only().attempts == attempts);
        world.clock.advance(27 * HOUR);
    }
    wait_until(|| world.only().state == DeliveryState::Failed);
    assert_eq!((world.only().attempts, peer.count()), (10, 10));
    let warnings = world.guard.admin().stats().unwrap().warnings;
    let warning = warnings
        .iter()
        .find(|text| text.contains("cannot be delivered"));
    let warning = warning.unwrap_or_else(|| panic!("{warnings:?}"));
    assert!(warning.contains("500 Internal Server Error"), "{warning}");
    assert!(!warning.contains("/events"), "{warning}");
}

#[test]
fn receiver_is_asked_again_when_retry_after_says() {
    let busy = "429 Too Many Requests\r\nRetry-After: 7200\r\nContent-Length: 0";
    let peer = Peer::answering(&[busy]);
    let world = World::sending_to(&peer.url());
    world.test();
    wait_until(|| world.only().attempts == 1);
    let next = world.only().next_attempt_at.unwrap();
    assert_eq!(next.since(NOON), 2 * HOUR);
}

#[test]
fn receiver_that_is_gone_gets_no_more_events() {
    let peer = Peer::answering(&["410 Gone\r\nContent-Length: 0"]);
    let world = World::sending_to(&peer.url());
    world.test();
    wait_until(|| world.only().state == DeliveryState::Failed);
    let warned = || {
        let warnings = world.guard.admin().stats().unwrap().warnings;
        warnings.iter().any(|text| text.contains("410 (Gone)"))
    };
    wait_until(warned);
    world.key(|key| key.rate_limit_per_minute(1));
    world
        .guard
        .admin()
        .block("192.0.2.9", None, "1 hour")
        .unwrap();
    wait_until(|| {
        world.clock.advance(SECOND);
        world.guard.admin().unblock("192.0.2.9", None).ok();
        let before = world.deliveries().len();
        world
            .guard
            .admin()
            .block("192.0.2.9", None, "1 hour")
            .unwrap();
        world.deliveries().len() == before
    });
    assert_eq!(peer.count(), 1);
}

#[test]
fn private_addresses_are_not_connected_to() {
    let peer = Peer::answering(&["200 OK"]);
    let world = World::sending(&peer.url(), |webhooks| Webhooks {
        allow_private: false,
        ..webhooks
    });
    world.test();
    wait_until(|| world.only().attempts == 1);
    let answer = world.only().answer.unwrap();
    assert!(answer.contains("no public address"), "{answer}");
    assert_eq!(peer.count(), 0);
}

#[test]
fn unencrypted_webhooks_need_the_permission_for_private_addresses() {
    let data = TempDir::new().unwrap();
    let data = data.path().join("keyguard.redb");
    let prepared =
        |allow_private| settings("http://example.com/token", allow_private).prepare(Some(&data));
    let Err(error) = prepared(false) else {
        panic!("accepted");
    };
    assert!(
        matches!(&error, ServeError::UnencryptedWebhook(_)),
        "{error}"
    );
    assert!(!error.to_string().contains("token"), "{error}");
    assert!(prepared(true).unwrap().is_some());
    assert!(matches!(
        settings("https://example.com", false).prepare(None),
        Err(ServeError::WebhooksOnServer)
    ));
}

#[test]
fn limits_are_told_once_in_a_window() {
    let world = World::without_tasks();
    let key = world.key(|key| key.rate_limit_per_minute(100).limits(["10 daily"]));
    world.check(&key, 7);
    assert_eq!(world.types(), [""; 0]);
    world.check(&key, 1);
    let shown = json!({ "id": 1, "label": "shop", "prefix": &key[..12] });
    let limit = |used: u64| {
        json!({
            "key": shown,
            "organization": { "id": 1, "name": "acme" },
            "limit": { "name": "daily", "amount": 10, "used": used },
        })
    };
    assert_eq!(world.events(), [("limit.warning".to_owned(), limit(8))]);
    world.check(&key, 1);
    assert_eq!(world.types().len(), 1);
    world.check(&key, 5);
    let reached = ("limit.reached".to_owned(), limit(10));
    assert_eq!(world.events()[1..], [reached]);
    // Another day.
    world.clock.advance(DAY);
    world.check(&key, 9);
    assert_eq!(world.types().len(), 3);

    // The next process repeats nothing.
    let World {
        dir, clock, guard, ..
    } = world;
    drop(guard);
    let world = World::in_dir(dir, clock, "https://example.com/events");
    world.check(&key, 0);
    world.check(&key, 1);
    assert_eq!(world.types()[3..], ["limit.reached"]);
    world.check(&key, 1);
    assert_eq!(world.types().len(), 4);
    // A raised limit begins anew.
    let raised = UpdateKey::new(KeyId(1)).limits(["20 daily"]);
    world.guard.admin().update_key(raised).unwrap();
    world.check(&key, 5);
    assert_eq!(world.types().len(), 4);
    world.check(&key, 1);
    assert_eq!(world.types()[4..], ["limit.warning"]);
}

#[test]
fn windows_and_limits_of_organizations_are_told() {
    let world = World::without_tasks();
    let key = world.key(|key| key.rate_limit_per_minute(5));
    let acme = world.guard.admin().find_org("acme").unwrap();
    let limits = UpdateOrg::new(acme.id).limits(["6/h", "6/min shadow"]);
    world.guard.admin().update_org(limits).unwrap();
    world.check(&key, 5);
    let names = |world: &World| {
        let mut names: Vec<String> = world
            .events()
            .iter()
            .map(|(kind, data)| format!("{kind} {}", data["limit"]["name"].as_str().unwrap()))
            .collect();
        names.sort();
        names
    };
    let expected = [
        "limit.reached default",
        "limit.warning default",
        "limit.warning org 6/hour",
    ];
    assert_eq!(names(&world), expected);
    let of_org = &world
        .events()
        .into_iter()
        .find(|(_, data)| data["key"].is_null());
    assert_eq!(of_org.as_ref().unwrap().1["organization"]["name"], "acme");
    // The minute has ended, the hour of silence has not.
    world.clock.advance(2 * 60 * SECOND);
    let other = world.key(|key| key.rate_limit_per_minute(100));
    world.check(&key, 1);
    world.check(&other, 5);
    assert_eq!(names(&world).len(), 4);
    assert_eq!(names(&world)[1], "limit.reached org 6/hour");
}

#[test]
fn overridden_limits_are_not_told() {
    let world = World::without_tasks();
    let key = world.key(|key| key.limits(["2 credits"]));
    world.check(&key, 2);
    assert_eq!(world.types(), ["limit.warning", "limit.reached"]);
    // The day of silence has ended, the credits are still used up.
    world.clock.advance(2 * DAY);
    let admin = world.guard.admin();
    admin.override_limit(KeyId(1), "credits", "1 day").unwrap();
    world.check(&key, 5);
    assert_eq!(world.types().len(), 2);
}

#[test]
fn keys_that_expire_within_a_week_are_told_once() {
    let world = World::without_tasks();
    let at = NOON.plus(7 * DAY + HOUR);
    world.key(|key| key.expires_at(at));
    let hour = |world: &World| {
        // The first look only sets the calendar clock.
        for _ in 0..60 {
            world.clock.advance(60 * SECOND);
            world.flush();
        }
        world.flush();
        world.types()
    };
    world.flush();
    assert_eq!(hour(&world), ["key.expiring"]);
    let (_, data) = &world.events()[0];
    assert_eq!(
        (&data["key"]["id"], &data["expires_at"]),
        (&json!(1), &json!(at))
    );
    assert_eq!(hour(&world).len(), 1);
    // Later, and then again within a week.
    let later = UpdateKey::new(KeyId(1)).expires_at(at.plus(DAY));
    world.guard.admin().update_key(later).unwrap();
    assert_eq!(hour(&world).len(), 1);
    for _ in 0..23 {
        hour(&world);
    }
    assert_eq!(world.types(), ["key.expiring"; 2]);
}

#[test]
fn old_text_of_a_rotated_key_is_told_once_a_day() {
    let world = World::without_tasks();
    let old = world.key(|key| key.rate_limit_per_minute(1_000));
    world.check(&old, 1);
    let rotate = RotateKey::new(KeyId(1)).grace(3 * DAY);
    let new = world.guard.admin().rotate_key(rotate).unwrap().raw_key;
    world.check(new.expose(), 3);
    assert_eq!(world.types(), [""; 0]);
    world.check(&old, 3);
    assert_eq!(world.types(), ["key.rotated_in_use"]);
    let until = json!(NOON.plus(3 * DAY));
    assert_eq!(world.events()[0].1["old_text_until"], until);
    world.clock.advance(DAY);
    world.check(new.expose(), 1);
    assert_eq!(world.types().len(), 1);
    world.check(&old, 1);
    assert_eq!(world.types().len(), 2);
}

#[test]
fn locked_addresses_are_told() {
    let world = World::without_tasks();
    let ip: ClientIp = "192.0.2.9".parse().unwrap();
    world
        .guard
        .admin()
        .block("192.0.2.8", None, "1 hour")
        .unwrap();
    let unknown = "kg_live_aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa000000";
    for _ in 0..9 {
        let _ = world
            .guard
            .check(&[("X-API-Key", unknown)], ip.ip().unwrap(), "/");
    }
    world.flush();
    let events = world.events();
    assert_eq!(world.types(), ["address.locked"; 2]);
    assert_eq!(
        (&events[0].1["ip"], &events[0].1["cause"]),
        (&json!("192.0.2.8"), &json!("manual"))
    );
    assert_eq!(
        (&events[1].1["ip"], &events[1].1["cause"]),
        (&json!("192.0.2.9"), &json!("bad_keys"))
    );
}

/// The guide's receiver accepts the vector of the specification, and nothing else.
#[test]
fn program_of_the_guide_verifies_signatures() {
    let page = include_str!("../../manual/webhooks.md");
    let (_, program) = page.split_once("```python\n").unwrap();
    let (program, _) = program.split_once("```").unwrap();
    let (id, body) = ("msg_p5jXN8AQM9LWM0D4loKWxJek", r#"{"test": 2432232314}"#);
    let secrets = SigningSecrets::parse(&SIGNING_SECRET.into()).unwrap();
    let signature = secrets.sign(id, 1_614_265_330, body);
    let call = |signature: &str, now: u64| {
        format!(
            "print(verify({SIGNING_SECRET:?}, {{'webhook-id': {id:?}, 'webhook-timestamp': '1614265330', \
             'webhook-signature': {signature:?}}}, {body:?}.encode(), {now}))\n"
        )
    };
    let now = 1_614_265_330 + 60;
    let calls = [
        call(&signature, now),
        call(&format!("v1,AAAA {signature}"), now),
        call(&signature, now + 600),
        call(&signature.replace('g', "h"), now),
    ];
    let output = std::process::Command::new("python3")
        .args(["-c", &format!("{program}\n{}", calls.concat())])
        .output()
        .expect("python3; tests/run installs it");
    let text = String::from_utf8(output.stdout).unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(text, "True\nTrue\nFalse\nFalse\n", "{error}");
}
