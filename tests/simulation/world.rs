//! One simulated guard, with everything that happens to it.

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use keyguard::{
    CidrSet, ClientIp, Config, CreateKey, Grant, KeyGuard, ManualClock, Policy, Request, RotateKey,
    TimeZone, Timestamp, UpdateKey, UpdateOrg,
};
use tempfile::TempDir;

use crate::calendar::{DAY, HOUR};
use crate::common::{Random, SECRET};
use crate::limit::{Admitted, Limit, MILLI, Now, SECOND, Taken};
use crate::model::{
    Key, LOCKED_PATH, Lock, Model, Org, Outcome, PATHS, POLICY, Presented, Scope, Sent, THRESHOLD,
    Text,
};

/// Clients, each with two addresses that count as one, and the network of both.
const CLIENTS: [([&str; 2], &str); 5] = [
    (["192.0.2.7", "::ffff:192.0.2.7"], "192.0.2.7"),
    (["198.51.100.20", "198.51.100.20"], "198.51.100.0/24"),
    (["203.0.113.9", "203.0.113.9"], "203.0.113.9"),
    (
        ["2001:db8:1:2::1", "2001:db8:1:2:ffff::9"],
        "2001:db8:1:2::/64",
    ),
    (["2001:db8:77::1", "2001:db8:77::2"], "2001:db8:77::/64"),
];

/// Times at which days are long or short, or years have a day more, by the zone of the quotas.
const STARTS: [&str; 6] = [
    "2026-01-15T12:00:00Z",
    "2026-03-28T20:00:00Z",
    "2026-10-24T19:30:00Z",
    "2026-12-31T22:00:00Z",
    "2028-02-28T22:30:00Z",
    "2028-02-29T22:45:00Z",
];

const ZONE: &str = "Europe/Berlin";

/// The most keys of a world.
const KEYS: usize = 12;

/// An admitted request that has not ended.
struct Pending {
    grant: Grant,
    key: usize,
    admitted: Admitted,
    taken: [Taken; 2],
}

pub(crate) struct World {
    random: Random,
    /// Whether every event is printed.
    is_traced: bool,
    dir: TempDir,
    clock: ManualClock,
    /// Nanoseconds since the start.
    elapsed: u64,
    start: u64,
    /// Whether the calendar is set while the guard runs.
    has_clock_steps: bool,
    /// Whether the queue of usage and the cache of keys overflow.
    is_small: bool,
    /// `None` while the guard is closed.
    kg: Option<KeyGuard>,
    model: Model,
    pending: Vec<Pending>,
    requests: u64,
    /// A well-formed key that no guard knows.
    unknown: String,
}

impl World {
    pub(crate) fn new(seed: u64, unknown: &str, is_traced: bool) -> Self {
        let mut random = Random(seed);
        let start: Timestamp = random.pick(&STARTS).parse().unwrap();
        let has_clock_steps = random.one_in(2);
        let mut world = Self {
            is_traced,
            dir: directory(),
            clock: ManualClock::starting_at(start),
            elapsed: 0,
            start: start.unix_millis(),
            has_clock_steps,
            // Counters that are evicted are read again from the file, by the calendar.
            is_small: !has_clock_steps && random.one_in(2),
            kg: None,
            model: Model::default(),
            pending: Vec::new(),
            requests: 0,
            unknown: unknown.to_owned(),
            random,
        };
        world.kg = Some(KeyGuard::open(world.file(), world.config()).unwrap());
        for _ in 0..2 {
            world.create_org();
        }
        for _ in 0..3 {
            world.create_key();
        }
        world
    }

    /// Makes one thing happen.
    pub(crate) fn step(&mut self) {
        match self.random.below(10_000) {
            0..4 => self.restart(),
            4..6 => self.kill(),
            6..14 if self.has_clock_steps => self.step_clock(),
            14..30 => self.check_stats(),
            30..110 => self.administer(),
            _ => {
                let longest = match self.random.one_in(100) {
                    true => 20_000 * SECOND,
                    false => self
                        .random
                        .pick(&[MILLI / 3, MILLI, SECOND / 5, SECOND, 60 * SECOND]),
                };
                self.serve(longest);
            }
        }
    }

    pub(crate) fn finish(mut self) {
        self.restart();
    }

    // Time

    fn now(&self) -> Now {
        Now {
            nanos: Now::START + self.elapsed,
            unix: self.clock.timestamp().unix_millis(),
        }
    }

    fn advance(&mut self, nanos: u64) {
        self.clock.advance(Duration::from_nanos(nanos));
        self.elapsed += nanos;
    }

    /// Sets the calendar for good, or for less than a minute in which the guard works on.
    fn step_clock(&mut self) {
        self.maintain(true);
        let (before, elapsed) = (self.now().unix, self.elapsed / MILLI);
        let to = self.other_time(before);
        self.trace(|| format!("calendar {before} -> {to}"));
        self.clock.set(Timestamp::from_unix_millis(to));
        let is_for_good = self.random.one_in(2);
        if !is_for_good {
            for _ in 0..self.random.below(60) {
                match self.random.one_in(20) {
                    true => self.administer(),
                    false => self.serve(SECOND / 2),
                }
            }
            let passed = self.elapsed / MILLI - elapsed;
            self.trace(|| "calendar back".to_owned());
            self.clock.set(Timestamp::from_unix_millis(before + passed));
        }
        self.maintain(!is_for_good);
    }

    fn other_time(&mut self, now: u64) -> u64 {
        let year = 365 * DAY;
        if now.abs_diff(self.start) > 2 * year || self.random.one_in(3) {
            let start: Timestamp = self.random.pick(&STARTS).parse().unwrap();
            return start.unix_millis() + self.random.below(4 * HOUR);
        }
        let by = self.random.pick(&[year, DAY, HOUR, 30_000]);
        match self.random.one_in(2) {
            true => now + by,
            false => now - by,
        }
    }

    /// Lets the guard do maintenance, twice, which it trusts the calendar for only if that has advanced
    /// like the monotonic clock since the last time.
    fn maintain(&mut self, is_steady: bool) {
        for round in 0..2 {
            self.advance(60 * SECOND);
            // Again, because the first run may have begun before the clock moved.
            for _ in 0..2 {
                self.kg().flush().unwrap();
            }
            if is_steady || round == 1 {
                self.model.maintain(self.now());
            }
        }
    }

    // The process

    fn kg(&self) -> &KeyGuard {
        self.kg.as_ref().unwrap()
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("keyguard.redb")
    }

    fn config(&self) -> Config {
        let zone: TimeZone = ZONE.parse().unwrap();
        let policy: Policy = POLICY.parse().unwrap();
        let (cached, queued) = match self.is_small {
            true => (16, 1_024),
            false => (4_096, 262_144),
        };
        Config::new(SECRET)
            .clock(self.clock.clone())
            .quota_time_zone(zone)
            .policy(policy)
            .lockout_threshold(THRESHOLD as u32)
            .socket(false)
            .key_cache_capacity(cached)
            .max_tracked_keys(4_096)
            .usage_queue_capacity(queued)
            .file_cache_bytes(1 << 20)
            .max_locks(256)
            .max_tracked_ips(1_024)
    }

    /// Stops in order, and starts again.
    fn restart(&mut self) {
        self.trace(|| "restart".to_owned());
        while !self.pending.is_empty() {
            self.end_one();
        }
        self.model.stop(self.now());
        self.kg.take().unwrap().close().unwrap();
        self.open();
    }

    /// Is killed some requests after everything was stored, and starts again.
    fn kill(&mut self) {
        self.trace(|| "store everything".to_owned());
        self.kg().flush().unwrap();
        let killed = self.dir.path().join("killed.redb");
        std::fs::copy(self.file(), &killed).unwrap();
        let stored = self.model.clone();
        for _ in 0..self.random.below(60) {
            self.serve(SECOND / 5);
        }
        self.trace(|| "kill".to_owned());
        self.pending.clear();
        drop(self.kg.take());
        std::fs::rename(killed, self.file()).unwrap();
        self.model = stored;
        self.open();
    }

    /// Opens the file. Every key is used at once, so that no stored window is read later, when the
    /// calendar may be another one.
    fn open(&mut self) {
        let kg = KeyGuard::open(self.file(), self.config()).unwrap();
        self.kg = Some(kg);
        self.model.start(self.now());
        self.check_stats();
        for key in 0..self.model.keys.len() {
            self.check_limits(key);
            for text in &self.model.keys[key].texts {
                let headers = [("X-API-Key", text.text.as_str())];
                self.kg()
                    .dry_run(Request::new(&headers, ClientIp::LOCAL, "/api/data"));
            }
        }
    }

    // Clients

    /// Lets some time pass, and then a request begin or end.
    fn serve(&mut self, longest: u64) {
        if self.random.one_in(2) {
            let by = self.random.below(longest);
            self.advance(by);
        }
        if !self.pending.is_empty() && self.random.one_in(2) {
            self.end_one();
        } else {
            self.request();
        }
    }

    fn request(&mut self) {
        self.requests += 1;
        let sent = self.random_request();
        let now = self.now();
        self.trace(|| format!("{sent:?} at {now:?}"));
        let (found, preview) = self.send(sent);
        let expected = self.model.decide(sent, now);
        if let Some(preview) = preview {
            assert_eq!(preview.as_ref(), found.as_ref().err(), "dry run");
        }
        match (found, expected) {
            (Ok(grant), Outcome::WithoutKey) => assert!(grant.key().is_none(), "{grant:?}"),
            (
                Ok(grant),
                Outcome::Admitted {
                    key,
                    admitted,
                    taken,
                    remaining,
                    shadow_denied,
                },
            ) => {
                assert_eq!(grant.key().map(|key| key.id), Some(self.model.keys[key].id));
                assert_eq!(grant.remaining(), remaining);
                assert_eq!(grant.shadow_denied().len(), shadow_denied);
                self.pending.push(Pending {
                    grant,
                    key,
                    admitted,
                    taken,
                });
            }
            (Err(denial), Outcome::Refused(reasons)) => {
                let reason = denial.reason();
                assert!(
                    reasons.contains(&reason),
                    "{denial:?} instead of {reasons:?}"
                );
                self.model.note_reason(reason);
                if let (Presented::Text(key, _), Some(wait)) =
                    (sent.presented, denial.retry_after())
                    && denial.status() == 429
                    && self.random.one_in(50)
                {
                    self.advance(wait.as_nanos() as u64);
                    self.check_limits(key);
                    let has_room = self.model.has_room(key, sent.cost, self.now());
                    assert!(has_room, "not after {wait:?}");
                }
            }
            (found, expected) => panic!("{found:?} instead of {expected:?}"),
        }
        if let Presented::Text(key, _) = sent.presented
            && self.random.one_in(16)
        {
            self.check_limits(key);
        }
    }

    fn random_request(&mut self) -> Sent {
        let random = &mut self.random;
        let presented = match random.below(40) {
            0 => Presented::Nothing,
            1 => Presented::Malformed,
            2 => Presented::Unknown,
            3 => Presented::Twice,
            4 => Presented::Two,
            _ => {
                let key = random.index(self.model.keys.len());
                let texts = self.model.keys[key].texts.len();
                let text = match random.one_in(3) {
                    true => random.index(texts),
                    false => texts - 1,
                };
                Presented::Text(key, text)
            }
        };
        Sent {
            address: (!random.one_in(8)).then(|| random.index(CLIENTS.len())),
            path: match random.one_in(3) {
                true => random.index(PATHS.len()),
                false => 0,
            },
            presented,
            cost: match random.one_in(3) {
                true => 1 + random.below(9),
                false => 1,
            },
            request: self.requests,
        }
    }

    /// Sends a request, sometimes after a dry run, whose refusal is returned too.
    fn send(
        &mut self,
        sent: Sent,
    ) -> (
        Result<Grant, keyguard::Denial>,
        Option<Option<keyguard::Denial>>,
    ) {
        let keys = &self.model.keys;
        let text = |key: usize, text: usize| keys[key].texts[text].text.as_str();
        let bearer = format!("Bearer {}", self.unknown);
        let of_key;
        let headers: &[(&str, &str)] = match sent.presented {
            Presented::Nothing => &[("Accept", "*/*")],
            Presented::Malformed => &[("X-API-Key", "kg_live_nonsense")],
            Presented::Unknown => &[("Authorization", &bearer)],
            Presented::Twice => &[("X-API-Key", &self.unknown), ("x-api-key", &self.unknown)],
            Presented::Two => {
                of_key = [("X-API-Key", text(0, 0)), ("Authorization", &bearer)];
                &of_key
            }
            Presented::Text(key, at) => {
                of_key = [("x-api-key", text(key, at)), ("Accept", "*/*")];
                &of_key
            }
        };
        let address = sent.address.map_or(ClientIp::LOCAL, |client| {
            CLIENTS[client].0[sent.request as usize % 2]
                .parse()
                .unwrap()
        });
        let cost = NonZeroU32::new(sent.cost as u32).unwrap();
        let request = Request::new(headers, address, PATHS[sent.path]).cost(cost);
        let kg = self.kg.as_ref().unwrap();
        let preview = self.random.one_in(8).then(|| kg.dry_run(request).denial);
        (kg.decide(request), preview)
    }

    fn end_one(&mut self) {
        let at = self.random.index(self.pending.len());
        let Pending {
            grant,
            key,
            admitted,
            taken,
        } = self.pending.swap_remove(at);
        let now = self.now();
        if self.random.one_in(2) {
            let actual = self.random.below(2 * admitted.cost + 1);
            self.trace(|| format!("settle {admitted:?} at {actual}"));
            grant.settle(actual);
            if actual != admitted.cost {
                self.model.settle(key, now, &taken, admitted, actual);
            }
        }
        let status = self.random.pick(&[0, 200, 404]);
        self.trace(|| format!("end {admitted:?} with {status}"));
        match status {
            0 => drop(grant),
            status => grant.finish(status),
        }
        self.model.end(key, &taken, status);
    }

    // Administrators

    fn administer(&mut self) {
        match self.random.below(12) {
            0 if self.model.keys.len() < KEYS => self.create_key(),
            0 => self.suspend_or_resume(),
            1 => self.limit_org(),
            2 => self.block(),
            3 => self.unblock(),
            kind => {
                let key = self.random.index(self.model.keys.len());
                self.change_key(kind, key);
            }
        }
    }

    fn create_org(&mut self) {
        let name = format!("org {}", self.model.orgs.len());
        let id = self.kg().admin().create_org(&name).unwrap().id;
        self.model.orgs.push(Org {
            id,
            name,
            is_suspended: false,
            subject: Default::default(),
        });
        self.limit_org();
    }

    /// Gives every organization new limits, and at least one.
    fn limit_org(&mut self) {
        for org in 0..self.model.orgs.len() {
            let mut limits = Limit::random(&mut self.random);
            if limits.is_empty() {
                limits = vec![Limit::many_per_hour()];
            }
            let org = &mut self.model.orgs[org];
            let texts = limits.iter().map(|limit| limit.text.as_str());
            let change = UpdateOrg::new(org.id).limits(texts);
            org.subject.set_limits(limits.clone());
            self.kg().admin().update_org(change).unwrap();
        }
        self.trace(|| "limits of organizations".to_owned());
    }

    fn suspend_or_resume(&mut self) {
        let org = self.random.index(self.model.orgs.len());
        let org = &mut self.model.orgs[org];
        org.is_suspended = !org.is_suspended;
        let (id, is_suspended) = (org.id, org.is_suspended);
        let admin = self.kg().admin();
        match is_suspended {
            true => admin.suspend_org(id).unwrap(),
            false => admin.resume_org(id).unwrap(),
        };
        self.trace(|| format!("{id:?} suspended: {is_suspended}"));
    }

    fn create_key(&mut self) {
        let org = self.random.index(self.model.orgs.len());
        let (per_minute, limits) = self.random_limits();
        let is_admin = self.random.one_in(2);
        let only_from = self.random_client();
        let expires_at = self.random_expiry();
        let request = CreateKey::new(&self.model.orgs[org].name, "key")
            .rate_limit_per_minute(per_minute as u32)
            .limits(limits.iter().map(|limit| limit.text.as_str()))
            .scopes(is_admin.then_some("admin"))
            .allowed_ips(network(only_from))
            .expires_at(expires_at.map(Timestamp::from_unix_millis));
        let created = self.kg().admin().create_key(request).unwrap();
        let mut key = Key {
            id: created.key.id,
            org,
            texts: vec![Text {
                text: created.raw_key.expose().to_owned(),
                expires_at: None,
            }],
            is_revoked: false,
            is_suspended: false,
            expires_at,
            is_admin,
            only_from,
            subject: Default::default(),
            requests: 0,
        };
        key.subject.set_limits(all_limits(per_minute, limits));
        self.trace(|| format!("create {key:?}"));
        self.model.keys.push(key);
    }

    fn change_key(&mut self, kind: u64, at: usize) {
        let now = self.now();
        let key = &self.model.keys[at];
        let (id, is_revoked, is_expired) = (key.id, key.is_revoked, key.is_expired(now));
        self.trace(|| format!("change {kind} of {id:?}"));
        let admin = self.kg().admin();
        match kind {
            4 | 5 => {
                let (per_minute, limits) = self.random_limits();
                let texts = limits.iter().map(|limit| limit.text.as_str());
                let change = UpdateKey::new(id)
                    .rate_limit_per_minute(per_minute as u32)
                    .limits(texts);
                let changed = admin.update_key(change);
                assert_eq!(changed.is_err(), is_revoked, "{changed:?}");
                if !is_revoked {
                    let subject = &mut self.model.keys[at].subject;
                    subject.set_limits(all_limits(per_minute, limits));
                }
            }
            6 => {
                let (is_admin, only_from) = (self.random.one_in(2), self.random_client());
                let change = UpdateKey::new(id)
                    .scopes(is_admin.then_some("admin"))
                    .allowed_ips(network(only_from));
                let changed = admin.update_key(change);
                assert_eq!(changed.is_err(), is_revoked, "{changed:?}");
                if !is_revoked {
                    let key = &mut self.model.keys[at];
                    (key.is_admin, key.only_from) = (is_admin, only_from);
                }
            }
            7 => {
                let (expires_at, reactivates) = (self.random_expiry(), self.random.one_in(2));
                let change = UpdateKey::new(id)
                    .expires_at(expires_at.map(Timestamp::from_unix_millis))
                    .reactivate(reactivates);
                let changed = admin.update_key(change);
                let is_refused = is_revoked || is_expired && !reactivates;
                assert_eq!(changed.is_err(), is_refused, "{changed:?}");
                if !is_refused {
                    self.model.keys[at].expires_at = expires_at;
                }
            }
            8 => self.rotate(at),
            9 if self.random.one_in(4) => {
                admin.revoke_key(id).unwrap();
                self.model.keys[at].is_revoked = true;
            }
            10 if self.random.one_in(2) => {
                let is_suspended = self.random.one_in(3);
                let changed = match is_suspended {
                    true => admin.suspend_key(id),
                    false => admin.resume_key(id),
                };
                assert_eq!(changed.is_err(), is_revoked, "{changed:?}");
                self.model.keys[at].is_suspended = is_suspended;
            }
            _ => self.reset(at),
        }
    }

    fn rotate(&mut self, at: usize) {
        let now = self.now();
        let grace = self.random.pick(&[0, HOUR]);
        let expires_at = self.random_expiry();
        let key = &self.model.keys[at];
        let is_expired = key.is_expired(now);
        let change = RotateKey::new(key.id).grace(Duration::from_millis(grace));
        let change = match is_expired {
            true => change.expires_at(expires_at.map(Timestamp::from_unix_millis)),
            false => change,
        };
        let rotated = self.kg().admin().rotate_key(change);
        let key = &mut self.model.keys[at];
        assert_eq!(rotated.is_err(), key.is_revoked, "{rotated:?}");
        let Ok(rotated) = rotated else { return };
        // The texts of an expired key are not accepted again.
        let retire_at = now.unix + if is_expired { 0 } else { grace };
        for text in &mut key.texts {
            text.expires_at = Some(text.expires_at.unwrap_or(u64::MAX).min(retire_at));
        }
        if is_expired {
            key.expires_at = expires_at;
        }
        key.texts.push(Text {
            text: rotated.raw_key.expose().to_owned(),
            expires_at: None,
        });
        // The oldest are asked for no more.
        if key.texts.len() > 4 {
            key.texts.remove(0);
        }
    }

    /// Resets the counters of a key while it has no request in flight.
    fn reset(&mut self, at: usize) {
        while !self.pending.is_empty() {
            self.end_one();
        }
        let id = self.model.keys[at].id;
        self.kg().admin().reset_key(id, None).unwrap();
        let subject = &mut self.model.keys[at].subject;
        subject.reset();
        subject.forget_saved();
        // A request at the very time of a reset may have been before it.
        self.advance(1);
    }

    fn block(&mut self) {
        let client = self.random.index(CLIENTS.len());
        let (path, scope) = match self.random.one_in(2) {
            true => (Some(LOCKED_PATH), Scope::Path),
            false => (None, Scope::All),
        };
        let lasts = self.random.pick(&[1_000, 60_000, HOUR, DAY]);
        let (ip, duration) = (CLIENTS[client].0[0], Duration::from_millis(lasts));
        self.trace(|| format!("block {ip} {path:?} for {duration:?}"));
        self.kg().admin().block(ip, path, duration).unwrap();
        let since = self.now().unix;
        self.model.lock(Lock {
            address: client,
            scope,
            is_manual: true,
            since,
            until: since + lasts,
        });
    }

    /// Ends the locks of a client that is locked out.
    fn unblock(&mut self) {
        let now = self.now();
        let active = self.model.locks.iter().filter(|lock| now.unix < lock.until);
        let clients: Vec<usize> = active.map(|lock| lock.address).collect();
        if clients.is_empty() {
            return;
        }
        let client = self.random.pick(&clients);
        let ip = CLIENTS[client].0[1];
        self.trace(|| format!("unblock {ip}"));
        let ended = self.kg().admin().unblock(ip, None).unwrap();
        let of_client = clients.iter().filter(|of| **of == client);
        assert_eq!(ended.len(), of_client.count());
        self.model.unlock(client);
    }

    fn random_limits(&mut self) -> (u64, Vec<Limit>) {
        let per_minute = 1 + self.random.below(60);
        (per_minute, Limit::random(&mut self.random))
    }

    fn random_client(&mut self) -> Option<usize> {
        let random = &mut self.random;
        random.one_in(4).then(|| random.index(CLIENTS.len()))
    }

    fn random_expiry(&mut self) -> Option<u64> {
        let lasts = self.random.pick(&[60_000, HOUR, DAY]);
        let expires_at = self.now().unix + lasts;
        self.random.one_in(3).then_some(expires_at)
    }

    // What the guard reports

    fn check_limits(&mut self, key: usize) {
        let now = self.now();
        let states = self
            .kg()
            .admin()
            .key_limits(self.model.keys[key].id)
            .unwrap();
        let mut found: Vec<_> = states
            .iter()
            .map(|state| (state.limit, state.remaining))
            .collect();
        let mut expected = Vec::new();
        for subject in self.model.subjects(key) {
            let remaining = subject.remaining(now);
            let amounts = subject.limits.iter().map(|limit| limit.amount);
            expected.extend(amounts.zip(remaining));
        }
        found.sort_unstable();
        expected.sort_unstable();
        assert_eq!(found, expected, "limits at {now:?}");
    }

    fn check_stats(&mut self) {
        let now = self.now();
        self.trace(|| "stats".to_owned());
        let stats = self.kg().admin().stats().unwrap();
        let Model {
            orgs, keys, totals, ..
        } = &mut self.model;
        assert_eq!(stats.organizations, orgs.len() as u64);
        assert_eq!(stats.total_keys, keys.len() as u64);
        let active = keys.iter().filter(|key| key.is_active(now));
        assert_eq!(stats.active_keys, active.count() as u64);
        assert_eq!(stats.requests + stats.dropped, totals.requests);
        assert!(self.is_small || stats.dropped == 0);
        if stats.dropped == 0 {
            assert_eq!(stats.errors, totals.errors);
            totals.refused.sort_unstable();
            assert_eq!(stats.refused, totals.refused);
            for top in &stats.top_keys {
                let mut keys = keys.iter();
                let key = keys.find(|key| key.id == top.key.id).unwrap();
                assert_eq!(top.requests, key.requests, "{:?}", key.id);
            }
        }
        assert_eq!(stats.locks, self.model.active_locks(now) as u64);
    }

    fn trace(&self, event: impl FnOnce() -> String) {
        if self.is_traced {
            eprintln!("{}", event());
        }
    }
}

/// All limits of a key.
fn all_limits(per_minute: u64, limits: Vec<Limit>) -> impl Iterator<Item = Limit> {
    std::iter::once(Limit::per_minute(per_minute)).chain(limits)
}

fn network(client: Option<usize>) -> CidrSet {
    let text = client.map_or("", |client| CLIENTS[client].1);
    text.parse().unwrap()
}

/// A directory in memory where the system has one: each change waits for the disk.
fn directory() -> TempDir {
    TempDir::new_in("/dev/shm")
        .or_else(|_| TempDir::new())
        .unwrap()
}
