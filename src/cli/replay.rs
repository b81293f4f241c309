//! `replay`

mod log;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use serde::Serialize;
use serde_json::json;

use self::log::{Entry, entry};
use super::failure::CliError;
use super::orgs;
use super::render::{Panel, Table};
use super::session::Session;
use super::{Cli, Exit, print};
use crate::admin::answer::{Command, ListedKey, PAGE};
use crate::admin::{CreateKey, ListKeys};
use crate::guard::{Config, Denial, Grant, Request};
use crate::input::text::escaped_json;
use crate::keyguard::KeyGuard;
use crate::model::key_text;
use crate::model::{Key, KeyId, KeyStatus, Org, OrgStatus};
use crate::policy;
use crate::time::{ManualClock, Timestamp};

#[derive(Args)]
pub(super) struct Replay {
    /// An access log in the common or combined format, or `-` for standard input. A key is known by
    /// its id or its whole prefix in the place of the user
    #[arg(value_name = "ACCESS_LOG")]
    log: PathBuf,
    /// The policy to decide by
    #[arg(long, value_name = "FILE")]
    policy: PathBuf,
    /// Print every refusal instead of a summary
    #[arg(long)]
    each: bool,
}

/// One request that would have been refused.
#[derive(Serialize)]
struct Refused {
    line: usize,
    time: Timestamp,
    ip: String,
    key: Option<String>,
    method: &'static str,
    path: String,
    status: u16,
    reason: String,
    rule: Option<String>,
}

/// Refusals of one kind.
struct Kind {
    count: u64,
    first: Timestamp,
    last: Timestamp,
}

#[derive(Default)]
struct Tally {
    requests: u64,
    refused: u64,
    /// Lines that are no requests, and the first of them.
    unreadable: u64,
    first_unreadable: usize,
    /// By who was refused, and why.
    kinds: BTreeMap<(String, String), Kind>,
}

/// More kinds than this are counted as one.
const MOST_KINDS: usize = 10_000;

pub(super) fn run(cli: &Cli, replay: &Replay) -> Result<Exit, CliError> {
    let policy = policy::read(&replay.policy)?;
    let unreadable = |source| CliError::Log {
        argument: "LOG",
        file: replay.log.clone(),
        source,
    };
    let lines: Box<dyn BufRead> = if replay.log.as_os_str() == "-" {
        Box::new(std::io::stdin().lock())
    } else {
        Box::new(BufReader::new(File::open(&replay.log).map_err(unreadable)?))
    };
    let mut stage: Option<Stage> = None;
    let mut tally = Tally::default();
    for (number, line) in (1..).zip(lines.split(b'\n')) {
        let line = line.map_err(unreadable)?;
        let line = String::from_utf8_lossy(&line);
        let Some(entry) = entry(&line) else {
            tally.note_unreadable(number);
            continue;
        };
        let stage = match &mut stage {
            Some(stage) => stage,
            none => none.insert(Stage::set(cli, policy.clone(), entry.time)?),
        };
        tally.requests += 1;
        match stage.decide(&entry) {
            Ok(grant) => grant.finish(200),
            Err(denial) => {
                let refused = Refused::new(number, &entry, stage.named(&entry), &denial);
                if replay.each {
                    print_one(cli, &refused)?;
                }
                tally.note(refused);
            }
        }
    }
    if tally.requests == 0 {
        return Err(CliError::NoRequests {
            file: replay.log.clone(),
            lines: tally.unreadable,
        });
    }
    if !replay.each {
        tally.show(cli)?;
    }
    Ok(Exit::Done)
}

fn print_one(cli: &Cli, refused: &Refused) -> Result<(), CliError> {
    if cli.json {
        let json = serde_json::to_string(refused)?;
        return print(&format!("{}\n", escaped_json(&json)));
    }
    let (who, why) = (refused.who(), refused.why());
    let Refused {
        line,
        time,
        method,
        path,
        status,
        ..
    } = refused;
    let text = format!("{line}: {time} {who} {method} {path}: {status} {why}");
    print(&format!("{}\n", super::render::escaped(&text)))
}

impl Refused {
    fn new(line: usize, entry: &Entry<'_>, key: Option<String>, denial: &Denial) -> Self {
        Self {
            line,
            time: entry.time,
            ip: entry.ip.to_string(),
            key,
            method: entry.method.as_str(),
            path: without_keys(crate::policy::path::stored(entry.target)),
            status: denial.status(),
            reason: denial.reason().to_string(),
            rule: denial.rule(),
        }
    }

    fn who(&self) -> String {
        match &self.key {
            Some(key) => format!("key {key}"),
            None => self.ip.clone(),
        }
    }

    fn why(&self) -> String {
        match &self.rule {
            Some(rule) => format!("{} by {rule}", self.reason),
            None => self.reason.clone(),
        }
    }
}

impl Tally {
    fn note_unreadable(&mut self, line: usize) {
        if self.unreadable == 0 {
            self.first_unreadable = line;
        }
        self.unreadable += 1;
    }

    fn note(&mut self, refused: Refused) {
        self.refused += 1;
        let mut kind = (refused.who(), refused.why());
        if self.kinds.len() >= MOST_KINDS && !self.kinds.contains_key(&kind) {
            kind = ("others".to_owned(), String::new());
        }
        let time = refused.time;
        let kind = self.kinds.entry(kind).or_insert(Kind {
            count: 0,
            first: time,
            last: time,
        });
        kind.count += 1;
        kind.last = kind.last.max(time);
    }

    /// The most frequent first.
    fn by_count(&self) -> Vec<(&(String, String), &Kind)> {
        let mut kinds: Vec<_> = self.kinds.iter().collect();
        kinds.sort_by_key(|(_, kind)| std::cmp::Reverse(kind.count));
        kinds
    }

    fn show(&self, cli: &Cli) -> Result<(), CliError> {
        let kinds = self.by_count();
        if cli.json {
            let refusals = kinds.iter().map(|((who, why), kind)| {
                json!({
                    "who": who, "why": why, "count": kind.count,
                    "first": kind.first, "last": kind.last,
                })
            });
            return cli.print_json(&json!({
                "requests": self.requests,
                "admitted": self.requests - self.refused,
                "refused": self.refused,
                "unreadable": self.unreadable,
                "refusals": refusals.collect::<Vec<_>>(),
            }));
        }
        let mut panel = Panel::new("Replay")
            .line("requests", self.requests)
            .line("admitted", self.requests - self.refused)
            .line("refused", self.refused);
        if self.unreadable > 0 {
            let text = format!(
                "{} lines, the first is {}",
                self.unreadable, self.first_unreadable
            );
            panel = panel.line("no requests", text);
        }
        let mut out = panel.render(cli.look);
        if !self.kinds.is_empty() {
            let mut table = Table::new(&["~who", "~why", ">count", "first", "last"]);
            for ((who, why), kind) in kinds {
                table.row([
                    who.clone(),
                    why.clone(),
                    kind.count.to_string(),
                    orgs::shown(kind.first, cli.look),
                    orgs::shown(kind.last, cli.look),
                ]);
            }
            out += &table.render(cli.look);
        }
        print(&out)
    }
}

/// A key of the data file.
#[derive(Clone, Copy)]
struct Known {
    /// Its id there, by which it is shown.
    id: KeyId,
    /// Its id on the stage.
    on_stage: KeyId,
}

/// A guard of its own, with the keys of the data file as they are now, whose clock is that of the
/// log.
struct Stage {
    guard: KeyGuard,
    clock: ManualClock,
    now: Timestamp,
    /// By id and by prefix, as the log names them. `None` for a prefix that several keys have.
    keys: BTreeMap<String, Option<Known>>,
    /// Goes last.
    _directory: Directory,
}

impl Stage {
    fn set(cli: &Cli, policy: policy::Policy, now: Timestamp) -> Result<Self, CliError> {
        let directory = Directory::new().map_err(CliError::Stage)?;
        // Earlier than the log, so that no key has expired when it comes.
        let now = now.minus(BEFORE);
        let clock = ManualClock::starting_at(now);
        // Nothing in it is worth hiding.
        let config = Config::new("replay")
            .policy(policy)
            .clock(clock.clone())
            .record_usage(false)
            .socket(false);
        let guard = KeyGuard::open(directory.0.join("replay.redb"), config)?;
        let mut stage = Self {
            guard,
            clock,
            now,
            keys: BTreeMap::new(),
            _directory: directory,
        };
        if cli.has_data() {
            stage.take_keys(&mut cli.session()?)?;
        }
        Ok(stage)
    }

    fn take_keys(&mut self, session: &mut Session) -> Result<(), CliError> {
        let mut suspended = Vec::new();
        let mut after = None;
        loop {
            let page: Vec<Org> = session.get(Command::ListOrgs { after, limit: PAGE })?;
            let Some(last) = page.last() else { break };
            after = Some(last.id);
            for org in page {
                let id = self.guard.admin().create_org(&org.name)?.id;
                self.guard
                    .admin()
                    .set_org_limits(id, org.limits.iter().map(ToString::to_string))?;
                if org.status == OrgStatus::Suspended {
                    suspended.push(id);
                }
            }
        }
        let mut request = ListKeys::default();
        loop {
            let page: Vec<ListedKey> = session.get(Command::ListKeys(request))?;
            let Some(last) = page.last() else { break };
            request.after = Some(last.key.id);
            self.take_page(&page)?;
        }
        for id in suspended {
            self.guard.admin().suspend_org(id)?;
        }
        Ok(())
    }

    /// A key that expires before the log begins does so just before it.
    fn expiry(&self, key: &Key) -> Option<Timestamp> {
        let earliest = self.now.plus(BEFORE / 2);
        key.expires_at.map(|expires_at| expires_at.max(earliest))
    }

    fn take_page(&mut self, page: &[ListedKey]) -> Result<(), CliError> {
        let requests: Vec<CreateKey> = page
            .iter()
            .map(|ListedKey { key, org_name }| CreateKey {
                scopes: key.scopes.iter().map(ToString::to_string).collect(),
                rate_limit_per_minute: Some(key.rate_limit_per_minute.get()),
                limits: key.limits.iter().map(ToString::to_string).collect(),
                allowed_ips: key.allowed_ips.texts(),
                expires_at: self.expiry(key),
                ..CreateKey::new(org_name, &key.label)
            })
            .collect();
        let created = self.guard.admin().create_keys(&requests)?;
        for (ListedKey { key, .. }, created) in page.iter().zip(created) {
            let on_stage = created.key.id;
            if key.status == KeyStatus::Revoked {
                self.guard.admin().revoke_key(on_stage)?;
            }
            let known = Known {
                id: key.id,
                on_stage,
            };
            // An id goes before a prefix that is written like it.
            self.keys.insert(key.id.to_string(), Some(known));
            self.keys
                .entry(key.prefix.clone())
                .and_modify(|other| {
                    *other = other.filter(|other| other.id.to_string() == key.prefix)
                })
                .or_insert(Some(known));
        }
        Ok(())
    }

    fn decide(&mut self, entry: &Entry<'_>) -> Result<Grant, Denial> {
        // Lines are written as requests end, so that some are a little out of order.
        self.clock.advance(entry.time.since(self.now));
        self.now = self.now.max(entry.time);
        let none: [(&str, &str); 0] = [];
        let request = Request::new(&none, entry.ip, entry.target).method(entry.method);
        match self.known(entry) {
            Some(known) => self.guard.decide_as(known.on_stage, request),
            None => self.guard.decide(request),
        }
    }

    fn known(&self, entry: &Entry<'_>) -> Option<Known> {
        *self.keys.get(shown(entry.user?))?
    }

    /// The key that a request of the log names: by its id, if it is one of the data file.
    fn named(&self, entry: &Entry<'_>) -> Option<String> {
        let user = entry.user?;
        Some(match self.known(entry) {
            Some(known) => known.id.to_string(),
            None => without_keys(shown(user)),
        })
    }
}

/// How much earlier than the log the stage begins.
const BEFORE: Duration = Duration::from_secs(1);

/// Returns the listed prefix if `user` is the whole text of a key, else `user` unchanged.
fn shown(user: &str) -> &str {
    key_text::shown_part(user).unwrap_or(user)
}

/// The least number of letters, digits, `-` and `_` behind the first `_` of a text that may be a key.
const LIKE_A_KEY: usize = 32;

/// How much of that is shown.
const SHOWN: usize = 12;

fn without_keys(text: &str) -> String {
    let is_of_key = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while !rest.is_empty() {
        let token = rest.find(|c| !is_of_key(c)).unwrap_or(rest.len());
        let (token, after) = rest.split_at(token);
        let behind = token.split_once('_').map_or("", |(_, behind)| behind);
        match behind.len() >= LIKE_A_KEY {
            true => shown.extend([&token[..SHOWN], "…"]),
            false => shown.push_str(token),
        }
        let other = after.find(is_of_key).unwrap_or(after.len());
        let (other, after) = after.split_at(other);
        shown.push_str(other);
        rest = after;
    }
    shown
}

/// A directory that is private to the user and goes when it is dropped.
struct Directory(PathBuf);

impl Directory {
    fn new() -> std::io::Result<Self> {
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(std::io::Error::other)?;
        let name = format!("keyguard-replay-{:016x}", u64::from_le_bytes(random));
        let path = std::env::temp_dir().join(name);
        let mut builder = std::fs::DirBuilder::new();
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.create(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // What is left in a temporary directory is harmless.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
