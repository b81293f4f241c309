//! Whole requests, with the decisions compared to a naive model.

use std::time::Duration;

use super::{directory, small};
use crate::admin::CreateKey;
use crate::guard::{Denial, Grant, Request};
use crate::keyguard::KeyGuard;
use crate::model::PlainKey;
use crate::net::{CidrSet, ClientIp};
use crate::time::{ManualClock, Timestamp};

/// One guard for each policy.
const POLICIES: [&str; 4] = [
    "",
    r#"
        protect = ["/api"]
        exempt = ["GET /api/health"]
    "#,
    r#"
        [[route]]
        name = "admin"
        path = "/admin"
        scopes = ["admin"]
        [[route]]
        name = "login"
        path = "POST /login"
        protect = false
        ip_limits = ["100000/min"]
    "#,
    r#"
        protect = ["/api"]
        ignore_case = true
        trusted_proxies = ["10.0.0.0/8"]
        require_client_ip = true
        deny = ["203.0.113.0/24"]
        key_limits = ["100/h shadow"]
    "#,
];

/// The keys of a guard, in this order. The bytes 1 to 7 stand for their texts in header values.
const PLAIN: usize = 0;
const SCOPED: usize = 1;
/// Accepted from `192.0.2.0/24` only.
const BOUND: usize = 2;
// Then a revoked, an expired and a suspended key, and one that does not exist.

struct Subject {
    kg: KeyGuard,
    keys: Vec<String>,
    clock: ManualClock,
}

/// Decides about a request. The input is a line `POLICY METHOD PEER TARGET` with the number of a policy, and
/// lines `NAME:VALUE` of header fields.
pub fn request(data: &[u8]) {
    thread_local! {
        static SUBJECTS: Vec<Subject> = (0..POLICIES.len()).map(Subject::new).collect();
    }
    let mut lines = data.split(|byte| *byte == b'\n');
    let first = String::from_utf8_lossy(lines.next().unwrap_or_default());
    let mut words = first.splitn(4, ' ');
    let mut word = || words.next().unwrap_or_default();
    let policy = word().parse::<usize>().unwrap_or(0) % POLICIES.len();
    let (method, peer, target) = (word(), word(), word());
    let peer = peer.parse().unwrap_or(ClientIp::LOCAL);
    SUBJECTS.with(|subjects| {
        let subject = &subjects[policy];
        let headers: Vec<_> = lines.filter_map(|line| subject.header(line)).collect();
        let sent = Sent {
            policy,
            method,
            peer,
            target,
            headers: &headers,
        };
        subject.check(&sent);
    });
}

/// A request as it is sent.
struct Sent<'a> {
    policy: usize,
    method: &'a str,
    peer: ClientIp,
    target: &'a str,
    headers: &'a [(String, Vec<u8>)],
}

impl Subject {
    fn new(policy: usize) -> Self {
        let clock = ManualClock::starting_at(Timestamp::from_unix_millis(1_768_478_400_000));
        let file = directory().join(format!("request-{policy}.redb"));
        let _ = std::fs::remove_file(&file);
        let config = small()
            .max_tracked_ips(4_096)
            .record_usage(false)
            .policy(POLICIES[policy].parse().expect("a policy"))
            .clock(clock.clone());
        let kg = KeyGuard::open(file, config).expect("a new file");
        let admin = kg.admin();
        let key = |org: &str| CreateKey::new(org, "fuzz");
        let create = |key| admin.create_key(key).expect("a valid key");
        admin.create_org("acme").expect("a new organization");
        let suspended = admin.create_org("other").expect("a new organization");
        let soon = clock.timestamp().plus(Duration::from_secs(1));
        let created = [
            create(key("acme")),
            create(key("acme").scopes(["admin"])),
            create(key("acme").scopes(["admin"]).allowed_ips("192.0.2.0/24")),
            create(key("acme").scopes(["admin"])),
            create(key("acme").scopes(["admin"]).expires_at(soon)),
            create(key("other").scopes(["admin"])),
        ];
        admin.revoke_key(created[3].key.id).expect("a stored key");
        clock.advance(Duration::from_secs(2));
        admin
            .suspend_org(suspended.id)
            .expect("a stored organization");
        let unknown = PlainKey::generate(&"kg_live_".parse().expect("a prefix"));
        let unknown = unknown.expect("the system has entropy");
        let texts = created.iter().map(|created| &created.raw_key);
        let keys = texts.chain([&unknown]).map(|key| key.expose().to_owned());
        Self {
            kg,
            keys: keys.collect(),
            clock,
        }
    }

    fn header(&self, line: &[u8]) -> Option<(String, Vec<u8>)> {
        let colon = line.iter().position(|byte| *byte == b':')?;
        let mut value = Vec::new();
        for byte in &line[colon + 1..] {
            match self.keys.get(usize::from(*byte).wrapping_sub(1)) {
                Some(key) => value.extend_from_slice(key.as_bytes()),
                None => value.push(*byte),
            }
        }
        Some((String::from_utf8_lossy(&line[..colon]).into_owned(), value))
    }

    fn check(&self, sent: &Sent<'_>) {
        let headers = sent.headers;
        let request = || Request::new(headers, sent.peer, sent.target).method(sent.method);
        let foreseen = self.kg.dry_run(request()).denial;
        let decided = self.kg.decide(request());
        assert_eq!(
            foreseen.map(|denial| denial.reason()),
            decided.as_ref().err().map(Denial::reason),
            "the dry run agrees"
        );
        match decided {
            Ok(grant) => self.check_grant(sent, grant),
            Err(denial) => self.check_denial(sent, &denial),
        }
        // Few requests come within the period of a limit.
        self.clock.advance(Duration::from_secs(60));
    }

    fn check_grant(&self, sent: &Sent<'_>, grant: Grant) {
        let denied: CidrSet = "203.0.113.0/24".parse().expect("a network");
        assert!(sent.policy != 3 || !denied.contains(grant.ip()));
        let proxies: CidrSet = "10.0.0.0/8".parse().expect("a network");
        assert!(grant.ip() == sent.peer || sent.policy == 3 && proxies.contains(sent.peer));
        let Some(key) = grant.key() else {
            assert!(sent.needs_no_key(), "{}", sent.target);
            return grant.finish(200);
        };
        // Keys have the numbers from 1 on.
        let index = key.id.0 as usize - 1;
        assert!(index <= BOUND, "{key:?}");
        assert!(sent.presents(&self.keys[index]), "{key:?}");
        let own: CidrSet = "192.0.2.0/24".parse().expect("a network");
        assert!(index != BOUND || own.contains(grant.ip()));
        let is_for_admins = sent.policy == 2 && sent.is_any_reading_below("admin");
        assert!(index != PLAIN || !is_for_admins, "{}", sent.target);
        grant.finish(200);
    }

    fn check_denial(&self, sent: &Sent<'_>, denial: &Denial) {
        assert!(matches!(denial.status(), 400 | 401 | 403 | 429));
        let problem = denial.problem();
        let problem = problem.strip_suffix('\n').expect("a line feed ends it");
        let texts = denial.headers().into_iter().map(|(_, value)| value);
        for text in texts.chain([problem.to_owned()]) {
            assert!(text.bytes().all(|byte| (b' '..=b'~').contains(&byte)));
            assert!(self.keys.iter().all(|key| !text.contains(key)));
        }
        let is_plain = |index: usize| {
            let header = (
                "x-api-key".to_owned(),
                self.keys[index].clone().into_bytes(),
            );
            sent.headers == [header]
        };
        let is_valid = sent.policy == 0 && (is_plain(PLAIN) || is_plain(SCOPED));
        assert!(!is_valid, "{denial}");
    }
}

impl Sent<'_> {
    fn values(&self, name: &str) -> impl Iterator<Item = &[u8]> {
        let named = move |(sent, _): &&(String, _)| sent.eq_ignore_ascii_case(name);
        let named = self.headers.iter().filter(named);
        named.map(|(_, value)| value.trim_ascii())
    }

    /// Whether the text of a key is the value of the key header, or a bearer token.
    fn presents(&self, key: &str) -> bool {
        let is_token = |value: &[u8]| {
            let token = value.strip_suffix(key.as_bytes());
            token.is_some_and(|scheme| scheme.trim_ascii().eq_ignore_ascii_case(b"bearer"))
        };
        self.values("x-api-key")
            .any(|value| value == key.as_bytes())
            || self.values("authorization").any(is_token)
    }

    fn needs_no_key(&self) -> bool {
        let has = |name| self.values(name).next().is_some();
        let is_preflight = has("origin") && has("access-control-request-method");
        let path = self.target.split(['?', '#']).next();
        let is_health = path == Some("/api/health") && matches!(self.method, "GET" | "HEAD");
        self.method == "OPTIONS" && is_preflight
            || match self.policy {
                0 => false,
                1 => is_health || !self.is_any_reading_below("api"),
                2 => {
                    let is_login = |path: &Vec<u8>| is_below(path, "login");
                    self.method == "POST" && self.readings().iter().all(is_login)
                }
                _ => !self.is_any_reading_below("api"),
            }
    }

    fn is_any_reading_below(&self, first: &str) -> bool {
        self.readings().iter().any(|path| is_below(path, first))
    }

    /// The path as it was sent, decoded once, and decoded until nothing is encoded.
    fn readings(&self) -> [Vec<u8>; 3] {
        let end = self.target.find(['?', '#']).unwrap_or(self.target.len());
        let sent = self.target.as_bytes()[..end].to_vec();
        let once = decoded(&sent);
        let mut last = once.clone();
        while decoded(&last) != last {
            last = decoded(&last);
        }
        let mut readings = [sent, once, last];
        if self.policy == 3 {
            readings
                .iter_mut()
                .for_each(|path| path.make_ascii_lowercase());
        }
        readings
    }
}

fn decoded(path: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::new();
    let mut at = 0;
    while at < path.len() {
        let digits = path.get(at + 1..at + 3).filter(|_| path[at] == b'%');
        let digits = digits.and_then(|digits| std::str::from_utf8(digits).ok());
        let is_hex = |digits: &&str| digits.bytes().all(|digit| digit.is_ascii_hexdigit());
        match digits
            .filter(is_hex)
            .map(|digits| u8::from_str_radix(digits, 16))
        {
            Some(Ok(byte)) => {
                decoded.push(byte);
                at += 3;
            }
            _ => {
                decoded.push(path[at]);
                at += 1;
            }
        }
    }
    decoded
}

/// Whether a path begins with a segment, once its empty and dot segments are removed.
fn is_below(path: &[u8], first: &str) -> bool {
    let mut segments: Vec<&[u8]> = Vec::new();
    for segment in path.split(|byte| matches!(byte, b'/' | b'\\')) {
        match segment {
            b"" | b"." => {}
            b".." => drop(segments.pop()),
            segment => segments.push(segment),
        }
    }
    segments.first() == Some(&first.as_bytes())
}
