//! Kills at any moment: acknowledged changes are stored, and changes in flight are stored completely or
//! not at all.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::num::NonZeroU32;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use crate::common::{IP, Random, SECRET, child};
use keyguard::{
    Config, CreateKey, KeyGuard, KeyId, OrgId, OrgStatus, Page, Reason, Request, RotateKey,
    UpdateKey,
};
use tempfile::TempDir;

const FILES: u64 = 4;
const KILLS_PER_FILE: u64 = 50;

const KEYS_AT_ONCE: usize = 3;

/// Stands for the unknown text of a key in flight.
const UNTOLD: &str = "-";

#[test]
fn two_hundred_kills_keep_changes_durable_and_atomic() {
    if let Some(argument) = child::argument() {
        let argument = argument.into_string().unwrap();
        let (seed, file) = argument.split_once(':').unwrap();
        return work(Path::new(file), Random(seed.parse().unwrap()));
    }
    let mut acknowledged = 0;
    let mut in_flight = InFlight::default();
    for file in 0..FILES {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("keyguard.redb");
        let mut model = Model::default();
        for kill in 0..KILLS_PER_FILE {
            let seed = file * KILLS_PER_FILE + kill + 1;
            let lines = lines_until_killed(&path, seed);
            let unfinished = model.replay(&lines);
            acknowledged += lines.iter().filter(|line| line.starts_with("done")).count();
            let everything = kill + 1 == KILLS_PER_FILE;
            model.verify(&path, unfinished.as_deref(), everything, &mut in_flight);
        }
        assert!(model.keys.len() > 30, "the work has come to nothing");
    }
    println!("{acknowledged} changes acknowledged, in flight: {in_flight:?}");
    // Otherwise the kills came too early.
    assert!(acknowledged > 500);
    assert!(in_flight.lost + in_flight.there > 0);
}

/// The fate of the changes in flight.
#[derive(Debug, Default)]
struct InFlight {
    lost: usize,
    there: usize,
}

/// Runs a child on the file, kills it after some lines and returns its output.
fn lines_until_killed(file: &Path, seed: u64) -> Vec<String> {
    let test = "two_hundred_kills_keep_changes_durable_and_atomic";
    let mut command = child::command(
        module_path!(),
        test,
        format!("{seed}:{}", file.to_str().unwrap()),
    );
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut random = Random(seed);
    let enough = random.below(20);
    // Spreads kills over the duration of a change. It spins: yielding would wait for the machine's
    // other work each time.
    let late = random.next_u64() % (1 << random.below(22));
    let mut lines = Vec::new();
    let mut said = 0;
    loop {
        if said == enough {
            (0..late).for_each(|_| std::hint::spin_loop());
            child.kill().unwrap();
        }
        let mut line = String::new();
        // The kill may have truncated the last line.
        if output.read_line(&mut line).unwrap() == 0 || !line.ends_with('\n') {
            break;
        }
        if let Some(line) = line.strip_prefix("| ") {
            lines.push(line.trim_end().to_owned());
            said += 1;
        }
    }
    assert!(!child.wait().unwrap().success(), "it was not killed");
    lines
}

/// Changes the file at random until it is killed. Prints each change before and after making it.
fn work(file: &Path, mut random: Random) {
    println!();
    say("opening");
    let kg = KeyGuard::open(file, Config::new(SECRET)).unwrap();
    let mut orgs: Vec<OrgId> = kg
        .admin()
        .list_orgs(Page::first().limit(usize::MAX))
        .unwrap()
        .iter()
        .map(|org| org.id)
        .collect();
    let all = Page::first().limit(usize::MAX);
    let keys = kg.admin().list_keys(None, all).unwrap();
    let mut keys: Vec<KeyId> = keys
        .iter()
        .filter(|key| key.is_active())
        .map(|key| key.id)
        .collect();
    let mut last_text = None;
    loop {
        let number = random.next_u64();
        let choice = if keys.is_empty() {
            number % 4
        } else {
            random.below(16)
        };
        match choice {
            0 => {
                let name = format!("org-{number:x}");
                say(&format!("org {name}"));
                let org = kg.admin().create_org(&name).unwrap();
                orgs.push(org.id);
                say(&format!("done {}", org.id));
            }
            1..=4 if !orgs.is_empty() => {
                let org = kg
                    .admin()
                    .list_orgs(Page::first().limit(usize::MAX))
                    .unwrap()[random.index(orgs.len())]
                .clone();
                let label = format!("key-{number:x}");
                let limit = 100 + random.below(900) as u32;
                say(&format!("keys {} {label} {limit}", org.id));
                let requests: [_; KEYS_AT_ONCE] = std::array::from_fn(|n| {
                    CreateKey::new(org.name.as_str(), format!("{label}-{n}"))
                        .rate_limit_per_minute(limit)
                });
                let created = kg.admin().create_keys(&requests).unwrap();
                let mut done = "done".to_owned();
                for key in created {
                    done += &format!(" {} {}", key.key.id, key.raw_key.expose());
                    keys.push(key.key.id);
                    last_text = Some(key.raw_key);
                }
                say(&done);
            }
            5 | 6 if !keys.is_empty() => {
                let id = keys.swap_remove(random.index(keys.len()));
                say(&format!("revoke {id}"));
                assert!(!kg.admin().revoke_key(id).unwrap().is_active());
                say("done");
            }
            7 | 8 if !orgs.is_empty() => {
                let id = orgs[random.index(orgs.len())];
                say(&format!("suspend {id}"));
                kg.admin().suspend_org(id).unwrap();
                say("done");
            }
            9 | 10 if !orgs.is_empty() => {
                let id = orgs[random.index(orgs.len())];
                say(&format!("resume {id}"));
                kg.admin().resume_org(id).unwrap();
                say("done");
            }
            11 | 12 if !keys.is_empty() => {
                let id = keys[random.index(keys.len())];
                let (label, limit) = (format!("new-{number:x}"), 1_000 + random.below(900) as u32);
                say(&format!("update {id} {label} {limit}"));
                let change = UpdateKey::new(id).label(label).rate_limit_per_minute(limit);
                kg.admin().update_key(change).unwrap();
                say("done");
            }
            13 if !keys.is_empty() => {
                let id = keys[random.index(keys.len())];
                say(&format!("rotate {id}"));
                let rotated = kg
                    .admin()
                    .rotate_key(RotateKey::new(id).grace(Duration::ZERO))
                    .unwrap();
                say(&format!("done {}", rotated.raw_key.expose()));
            }
            14 | 15 => {
                // Admitted and refused requests with a known key are recorded.
                if let Some(text) = &last_text {
                    let requests = 1 + random.below(50);
                    say(&format!("use {requests}"));
                    for _ in 0..requests {
                        let headers = [("X-API-Key", text.expose())];
                        let _ = kg.check(&headers, IP, "/").map(|grant| grant.finish(200));
                    }
                    kg.flush().unwrap();
                    say("done");
                }
            }
            _ => {}
        }
    }
}

/// Prints one line in one write.
fn say(line: &str) {
    std::io::stdout()
        .write_all(format!("| {line}\n").as_bytes())
        .unwrap();
}

/// The content of the file, according to the output.
#[derive(Clone, Default)]
struct Model {
    orgs: BTreeMap<OrgId, (String, OrgStatus)>,
    keys: BTreeMap<KeyId, ModelKey>,
    /// The least and greatest number of recorded requests.
    requests: (u64, u64),
    /// Keys changed since the last verification.
    touched: Vec<KeyId>,
}

#[derive(Clone, Debug)]
struct ModelKey {
    org: OrgId,
    label: String,
    limit: NonZeroU32,
    active: bool,
    /// The text, if known.
    text: Option<String>,
    /// Earlier texts.
    expired: Vec<String>,
}

impl Model {
    /// Applies the acknowledged changes and returns the one in flight.
    fn replay(&mut self, lines: &[String]) -> Option<String> {
        let mut begun = None;
        for line in lines {
            match line.strip_prefix("done") {
                Some(reply) => {
                    let change: String = begun.take().unwrap();
                    self.make(&change, &reply.split_whitespace().collect::<Vec<_>>());
                }
                None if line == "opening" => {}
                None => begun = Some(line.clone()),
            }
        }
        begun
    }

    /// Applies a change with its reply; without a reply, it was in flight.
    fn make(&mut self, change: &str, reply: &[&str]) {
        let words: Vec<&str> = change.split(' ').collect();
        match words[..] {
            ["org", name] => {
                let id = OrgId(number(reply[0]));
                self.orgs.insert(id, (name.to_owned(), OrgStatus::Active));
            }
            ["keys", org, label, limit] => {
                for (n, created) in reply.chunks(2).enumerate() {
                    let key = ModelKey {
                        org: OrgId(number(org)),
                        label: format!("{label}-{n}"),
                        limit: limit.parse().unwrap(),
                        active: true,
                        text: (created[1] != UNTOLD).then(|| created[1].to_owned()),
                        expired: Vec::new(),
                    };
                    let id = KeyId(number(created[0]));
                    self.keys.insert(id, key);
                    self.touched.push(id);
                }
            }
            ["revoke", id] => self.key(id).active = false,
            ["suspend", id] => self.org(id).1 = OrgStatus::Suspended,
            ["resume", id] => self.org(id).1 = OrgStatus::Active,
            ["update", id, label, limit] => {
                let key = self.key(id);
                label.clone_into(&mut key.label);
                key.limit = limit.parse().unwrap();
            }
            ["rotate", id] => {
                let key = self.key(id);
                key.expired.extend(key.text.take());
                key.text = reply.first().map(|text| (*text).to_owned());
            }
            ["use", requests] => {
                self.requests.0 += number(requests);
                self.requests.1 += number(requests);
            }
            _ => panic!("{change}"),
        }
    }

    fn org(&mut self, id: &str) -> &mut (String, OrgStatus) {
        self.orgs.get_mut(&OrgId(number(id))).unwrap()
    }

    fn key(&mut self, id: &str) -> &mut ModelKey {
        let id = KeyId(number(id));
        self.touched.push(id);
        self.keys.get_mut(&id).unwrap()
    }

    /// Checks that the file contains this state, with or without the change in flight.
    fn verify(
        &mut self,
        file: &Path,
        unfinished: Option<&str>,
        everything: bool,
        seen: &mut InFlight,
    ) {
        let kg = KeyGuard::open(file, Config::new(SECRET)).unwrap();
        let found = Found::of(&kg);
        if let Some(change) = unfinished {
            let mut with = self.clone();
            if let Some(count) = change.strip_prefix("use ") {
                self.requests.1 += number(count);
            } else if let Some(reply) = found.reply_to(change) {
                let reply: Vec<&str> = reply.iter().map(String::as_str).collect();
                with.make(change, &reply);
                self.touched.clone_from(&with.touched);
                let is_there = found.holds(&with);
                let is_visible = !found.holds(self);
                if is_there && (is_visible || self.rotated(&kg, change)) {
                    *self = with;
                    seen.there += 1;
                } else {
                    seen.lost += usize::from(!is_there);
                }
            } else {
                seen.lost += 1;
            }
        }
        assert!(found.holds(self), "after `{unfinished:?}`");
        found.assert_audited(&kg);

        let stats = kg.admin().stats().unwrap();
        assert_eq!(stats.organizations, self.orgs.len() as u64);
        assert_eq!(stats.total_keys, self.keys.len() as u64);
        let active = self.keys.values().filter(|key| key.active).count();
        assert_eq!(stats.active_keys, active as u64);
        let (least, most) = self.requests;
        assert!(
            (least..=most).contains(&stats.requests),
            "{stats:?} {:?}",
            self.requests
        );
        self.requests = (stats.requests, stats.requests);

        let touched = std::mem::take(&mut self.touched);
        for (id, key) in &self.keys {
            if everything || touched.contains(id) {
                self.verify_texts(&kg, key);
            }
        }
    }

    /// Whether the rotation in flight was stored, which only the old text shows.
    fn rotated(&self, kg: &KeyGuard, change: &str) -> bool {
        let Some(id) = change.strip_prefix("rotate ") else {
            return false;
        };
        let text = self.keys[&KeyId(number(id))].text.as_deref();
        text.is_some_and(|text| outcome(kg, text) == Some(Reason::ExpiredKey))
    }

    /// Checks which texts of the key are admitted.
    fn verify_texts(&self, kg: &KeyGuard, key: &ModelKey) {
        let expected = match key {
            key if !key.active => Some(Reason::RevokedKey),
            key if self.orgs[&key.org].1 == OrgStatus::Suspended => Some(Reason::SuspendedOrg),
            _ => None,
        };
        if let Some(text) = &key.text {
            assert_eq!(outcome(kg, text), expected, "{key:?}");
        }
        for text in &key.expired {
            let expected = if key.active {
                Reason::ExpiredKey
            } else {
                Reason::RevokedKey
            };
            assert_eq!(outcome(kg, text), Some(expected), "{key:?}");
        }
    }
}

/// The reason why the text of a key is refused. Records nothing.
fn outcome(kg: &KeyGuard, text: &str) -> Option<Reason> {
    let headers = [("X-API-Key", text)];
    let verdict = kg.dry_run(Request::new(&headers, IP, "/"));
    verdict.denial.map(|denial| denial.reason())
}

/// The listings of the file.
struct Found {
    orgs: BTreeMap<OrgId, (String, OrgStatus)>,
    keys: BTreeMap<KeyId, (OrgId, String, NonZeroU32, bool)>,
}

impl Found {
    fn of(kg: &KeyGuard) -> Self {
        let orgs = kg
            .admin()
            .list_orgs(Page::first().limit(usize::MAX))
            .unwrap();
        let all = Page::first().limit(usize::MAX);
        let keys = kg.admin().list_keys(None, all).unwrap();
        // By organization, too, which uses another index.
        let mut by_org = Vec::new();
        for org in &orgs {
            by_org.extend(kg.admin().list_keys(Some(org.id), all).unwrap());
            assert_eq!(kg.admin().find_org(&org.name).unwrap(), *org);
        }
        by_org.sort_by_key(|key| key.id);
        assert!(by_org == keys);
        let keys = keys.into_iter().map(|key| {
            let is_active = key.is_active();
            let row = (key.org_id, key.label, key.rate_limit_per_minute, is_active);
            (key.id, row)
        });
        Self {
            keys: keys.collect(),
            orgs: orgs
                .into_iter()
                .map(|org| (org.id, (org.name, org.status)))
                .collect(),
        }
    }

    fn holds(&self, model: &Model) -> bool {
        let keys = model
            .keys
            .iter()
            .map(|(id, key)| (*id, (key.org, key.label.clone(), key.limit, key.active)));
        self.orgs == model.orgs && self.keys == keys.collect()
    }

    /// Checks that the audit log leads to the state: no change without its entry, no entry without its
    /// change.
    fn assert_audited(&self, kg: &KeyGuard) {
        let (mut orgs, mut keys) = (BTreeMap::new(), BTreeMap::new());
        for entry in kg
            .admin()
            .list_audit(Page::first().limit(usize::MAX))
            .unwrap()
            .iter()
            .rev()
        {
            let id = entry.subject.unwrap();
            let text = |name: &str| entry.details[name].as_str().unwrap().to_owned();
            match entry.action.as_str() {
                "create_org" => drop(orgs.insert(id, (text("org_name"), OrgStatus::Active))),
                "suspend_org" => orgs.get_mut(&id).unwrap().1 = OrgStatus::Suspended,
                "resume_org" => orgs.get_mut(&id).unwrap().1 = OrgStatus::Active,
                "create_keys" => {
                    keys.extend((id..).take(KEYS_AT_ONCE).map(|id| (id, (None, true))))
                }
                "update_key" => keys.get_mut(&id).unwrap().0 = Some(text("label")),
                "revoke_key" => keys.get_mut(&id).unwrap().1 = false,
                "rotate_key" => assert!(keys.contains_key(&id)),
                other => panic!("{other} was not done"),
            }
        }
        let found_orgs = self.orgs.iter().map(|(id, org)| (id.0, org.clone()));
        assert_eq!(orgs, found_orgs.collect());
        assert_eq!(keys.len(), self.keys.len());
        for (id, (label, is_active)) in keys {
            let (_, found, _, active) = &self.keys[&KeyId(id)];
            assert_eq!(is_active, *active, "key {id}");
            assert!(label.is_none_or(|label| label == *found), "key {id}");
        }
    }

    /// The reply of a change that was stored; `None` if it was not stored completely.
    fn reply_to(&self, change: &str) -> Option<Vec<String>> {
        let words: Vec<&str> = change.split(' ').collect();
        match words[..] {
            ["org", name] => {
                let found = self.orgs.iter().find(|(_, org)| org.0 == name);
                found.map(|(id, _)| vec![id.to_string()])
            }
            ["keys", _, label, _] => {
                let found = self.keys.iter().filter(|(_, key)| key.1.starts_with(label));
                let ids: Vec<String> = found
                    .flat_map(|(id, _)| [id.to_string(), UNTOLD.to_owned()])
                    .collect();
                (ids.len() == 2 * KEYS_AT_ONCE).then_some(ids)
            }
            _ => Some(Vec::new()),
        }
    }
}

fn number(text: &str) -> u64 {
    text.parse().unwrap()
}
