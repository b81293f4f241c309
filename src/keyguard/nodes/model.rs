//! A naive model: which outcomes are right for a request, by what was acknowledged when.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::limiter::Fallback;
use crate::model::{KeyId, Reason};

/// How long cached keys are used without contact to PostgreSQL.
pub(super) const STALENESS: Duration = Duration::from_secs(15);

/// Failed authentications in an hour that do not lock an address.
pub(super) const THRESHOLD: u64 = 6;

/// The longest time until a change is in force on a node that was in contact all the time.
const PROMPTLY: Duration = Duration::from_millis(100);

/// The longest time until a node works as before a disturbance: a lost session is noticed, and replaced.
pub(super) const RECOVERY: Duration = Duration::from_secs(12);

/// How much later than its request a hit may begin to count.
const LATE: Duration = Duration::from_secs(7);

/// Time since the start of the world.
pub(super) type Time = Duration;

/// Each start of a process is a node of its own.
pub(super) type NodeId = usize;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Server {
    Postgres,
    Redis,
}

/// What administrators change.
#[derive(Clone, Copy, Debug)]
pub(super) enum Item {
    Key(usize),
    Org(usize),
    Address(usize),
}

/// A value that administrators change.
pub(super) struct History {
    first: bool,
    changes: Vec<Change>,
    /// Whether the last change is being made.
    is_changing: bool,
}

struct Change {
    value: bool,
    node: NodeId,
    sent: Time,
    /// `None` if the outcome is unknown.
    done: Option<Time>,
}

impl History {
    fn new(first: bool) -> Self {
        Self {
            first,
            changes: Vec::new(),
            is_changing: false,
        }
    }

    pub(super) fn is_changing(&self) -> bool {
        self.is_changing
    }

    pub(super) fn begin(&mut self, value: bool, node: NodeId, now: Time) {
        self.is_changing = true;
        self.changes.push(Change {
            value,
            node,
            sent: now,
            done: None,
        });
    }

    /// The last change was acknowledged.
    pub(super) fn end(&mut self, now: Time) {
        self.is_changing = false;
        self.changes.last_mut().unwrap().done = Some(now);
    }

    /// The outcome of the last change is unknown.
    pub(super) fn fail(&mut self) {
        self.is_changing = false;
    }

    /// The last change was refused.
    pub(super) fn cancel(&mut self) {
        self.is_changing = false;
        self.changes.pop();
    }

    /// The value after all changes; `None` if it is unknown.
    pub(super) fn last(&self) -> Option<bool> {
        match self.changes.last() {
            None => Some(self.first),
            Some(change) => change.done.map(|_| change.value),
        }
    }

    /// Whether a node may decide by a value about a request that began at `start`.
    fn may_be(&self, value: bool, start: Time, view: &View) -> bool {
        let mut may_be = self.first == value;
        for change in &self.changes {
            may_be = match view.knows(change, start) {
                true => change.value == value,
                false => may_be || change.value == value,
            };
        }
        may_be
    }
}

/// What a node can know.
struct View {
    node: NodeId,
    /// When it had read everything at its start.
    opened: Option<Time>,
    /// From when on it works as usual, if its contact with PostgreSQL lasts.
    usual_from: Option<Time>,
    /// Whether it knows everything after [`STALENESS`], even without contact.
    is_bounded: bool,
}

impl View {
    /// Whether the node decides by a change about a request that begins now.
    fn knows(&self, change: &Change, now: Time) -> bool {
        let Some(done) = change.done else {
            return false;
        };
        let from_feed = self.usual_from.map(|usual_from| match usual_from {
            _ if usual_from <= change.sent => done + PROMPTLY,
            _ => usual_from.max(done + RECOVERY),
        });
        // Of what happens in the same millisecond, either may be the first.
        self.node == change.node && done < now
            || self.opened.is_some_and(|opened| done <= opened)
            || self.is_bounded && done + STALENESS <= now
            || from_feed.is_some_and(|known_at| known_at <= now)
    }
}

pub(super) struct Key {
    pub(super) id: KeyId,
    pub(super) text: String,
    pub(super) org: usize,
    /// The most requests in any time of this length.
    pub(super) amount: usize,
    pub(super) length: Duration,
    pub(super) is_revoked: History,
    /// The start and the end of each request, and whether it may have been counted.
    requests: Vec<(Time, Option<Time>, bool)>,
    admitted: Vec<(Time, Time)>,
}

impl Key {
    pub(super) fn new(id: KeyId, text: String, org: usize, (amount, length): Limit) -> Self {
        Self {
            id,
            text,
            org,
            amount,
            length,
            is_revoked: History::new(false),
            requests: Vec::new(),
            admitted: Vec::new(),
        }
    }
}

pub(super) type Limit = (usize, Duration);

/// What a request presents.
#[derive(Clone, Copy, Debug)]
pub(super) enum Presented {
    /// A key, and the number of the request among those of the key.
    Key(usize, usize),
    Unknown,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Sent {
    pub(super) node: NodeId,
    pub(super) address: usize,
    pub(super) presented: Presented,
    pub(super) at: Time,
}

#[derive(Default)]
pub(super) struct Node {
    /// What was changed until then is known to it from its start on.
    opened: Option<Time>,
    killed: Option<Time>,
    /// From when on it works as usual, for each server with which it is in contact.
    contact: BTreeMap<Server, Time>,
    fallbacks: u64,
    /// Recorded requests, and how many of them are certainly stored.
    recorded: u64,
    stored: u64,
}

pub(super) struct Model {
    fallback: Fallback,
    pub(super) keys: Vec<Key>,
    /// Whether an organization is suspended.
    pub(super) orgs: Vec<History>,
    /// Whether an address is blocked by an administrator.
    pub(super) addresses: Vec<History>,
    /// Failed authentications by address.
    failures: Vec<u64>,
    pub(super) nodes: Vec<Node>,
    fell_back: Option<Time>,
    flushes: Vec<Time>,
    /// The last crash of a server.
    crashed: Option<Time>,
}

impl Model {
    pub(super) fn new(fallback: Fallback, orgs: usize, addresses: usize) -> Self {
        Self {
            fallback,
            keys: Vec::new(),
            orgs: (0..orgs).map(|_| History::new(false)).collect(),
            addresses: (0..addresses).map(|_| History::new(false)).collect(),
            failures: vec![0; addresses],
            nodes: Vec::new(),
            fell_back: None,
            flushes: Vec::new(),
            crashed: None,
        }
    }

    pub(super) fn history(&mut self, item: Item) -> &mut History {
        match item {
            Item::Key(key) => &mut self.keys[key].is_revoked,
            Item::Org(org) => &mut self.orgs[org],
            Item::Address(address) => &mut self.addresses[address],
        }
    }

    // Nodes

    pub(super) fn open(&mut self) -> NodeId {
        self.nodes.push(Node::default());
        self.nodes.len() - 1
    }

    /// A node was opened from `start` to `now`. Unless a server crashed meanwhile, it has read everything,
    /// and follows changes.
    pub(super) fn opened(&mut self, node: NodeId, start: Time, now: Time) {
        if self.crashed.is_none_or(|at| at < start) {
            let node = &mut self.nodes[node];
            node.opened = Some(start);
            node.contact.insert(Server::Postgres, now);
        }
    }

    pub(super) fn kill(&mut self, node: NodeId, now: Time) {
        let node = &mut self.nodes[node];
        node.killed = Some(now);
        node.contact.clear();
    }

    /// A node is in contact with a server, and works as usual from a time on if that lasts; or is not.
    pub(super) fn set_contact(&mut self, node: NodeId, server: Server, usual_from: Option<Time>) {
        let contact = &mut self.nodes[node].contact;
        match usual_from {
            Some(usual_from) => contact.insert(server, usual_from),
            None => contact.remove(&server),
        };
    }

    pub(super) fn is_in_contact(&self, node: NodeId, server: Server) -> bool {
        self.nodes[node].contact.contains_key(&server)
    }

    /// Redis has lost all counters.
    pub(super) fn flush(&mut self, now: Time) {
        self.flushes.push(now);
    }

    /// A server has lost all connections.
    pub(super) fn crash(&mut self, now: Time) {
        self.crashed = Some(now);
    }

    pub(super) fn recorded(&self) -> u64 {
        self.nodes.iter().map(|node| node.recorded).sum()
    }

    /// The number of requests that are certainly stored.
    pub(super) fn stored(&self) -> u64 {
        self.nodes.iter().map(|node| node.stored).sum()
    }

    pub(super) fn recorded_by(&self, node: NodeId) -> u64 {
        self.nodes[node].recorded
    }

    /// Everything that a node had recorded by some time is stored.
    pub(super) fn store(&mut self, node: NodeId, recorded: u64) {
        self.nodes[node].stored = recorded;
    }

    /// The number of decisions that a node has made without Redis.
    pub(super) fn note_fallbacks(&mut self, node: NodeId, fallbacks: u64, now: Time) {
        let known = &mut self.nodes[node].fallbacks;
        if std::mem::replace(known, fallbacks) != fallbacks {
            self.fell_back = Some(now);
        }
    }

    /// Whether a node has been in contact with both servers for so long that it works as usual.
    fn is_calm(&self, node: NodeId, start: Time) -> bool {
        let contact = &self.nodes[node].contact;
        let is_calm = |server| {
            let usual_from = contact.get(&server);
            usual_from.is_some_and(|usual_from| *usual_from <= start)
        };
        is_calm(Server::Postgres) && is_calm(Server::Redis)
    }

    fn view(&self, node: NodeId, is_bounded: bool) -> View {
        let Node {
            opened, contact, ..
        } = &self.nodes[node];
        View {
            node,
            opened: *opened,
            usual_from: contact.get(&Server::Postgres).copied(),
            is_bounded,
        }
    }

    // Requests

    pub(super) fn send(
        &mut self,
        node: NodeId,
        address: usize,
        key: Option<usize>,
        at: Time,
    ) -> Sent {
        let presented = match key {
            None => Presented::Unknown,
            Some(key) => {
                let requests = &mut self.keys[key].requests;
                requests.push((at, None, true));
                Presented::Key(key, requests.len() - 1)
            }
        };
        if key.is_none() {
            self.failures[address] += 1;
        }
        Sent {
            node,
            address,
            presented,
            at,
        }
    }

    /// Returns what is wrong with an outcome, if anything.
    pub(super) fn judge(
        &mut self,
        sent: Sent,
        outcome: Result<(), Reason>,
        now: Time,
    ) -> Result<(), String> {
        if outcome.is_err() {
            self.record(sent);
        }
        let locks = self.view(sent.node, false);
        let may_be_blocked = |value| self.addresses[sent.address].may_be(value, sent.at, &locks);
        let is_failing = self.failures[sent.address] > THRESHOLD;
        let is_right = match (sent.presented, outcome) {
            (_, Err(Reason::IpLocked)) => may_be_blocked(true) || is_failing,
            (_, Err(Reason::Unavailable)) => !self.is_calm(sent.node, sent.at),
            (Presented::Unknown, outcome) => {
                outcome == Err(Reason::UnknownKey) && may_be_blocked(false)
            }
            (Presented::Key(key, _), outcome) => {
                let keys = self.view(sent.node, true);
                let (key, org) = (&self.keys[key], &self.orgs[self.keys[key].org]);
                let may_be_revoked = |value| key.is_revoked.may_be(value, sent.at, &keys);
                let may_be_suspended = |value| org.may_be(value, sent.at, &keys);
                match outcome {
                    Ok(()) => {
                        may_be_blocked(false) && may_be_revoked(false) && may_be_suspended(false)
                    }
                    Err(Reason::RevokedKey) => may_be_revoked(true),
                    Err(Reason::SuspendedOrg) => may_be_suspended(true),
                    Err(Reason::RateLimited) => self.may_be_limited(key, sent.at, now),
                    _ => false,
                }
            }
        };
        if let Presented::Key(key, request) = sent.presented {
            let may_count = matches!(outcome, Ok(()) | Err(Reason::Unavailable));
            self.keys[key].requests[request] = (sent.at, Some(now), may_count);
        }
        if !is_right {
            return Err(format!("{sent:?} until {now:?}: {outcome:?}"));
        }
        match (sent.presented, outcome) {
            (Presented::Key(key, _), Ok(())) => self.count(key, sent.at, now),
            _ => Ok(()),
        }
    }

    /// Counts a request as recorded.
    pub(super) fn record(&mut self, sent: Sent) {
        self.nodes[sent.node].recorded += 1;
    }

    /// Whether enough requests may count to refuse another one.
    fn may_be_limited(&self, key: &Key, start: Time, now: Time) -> bool {
        // A call may reach Redis late, and hits are rounded to a later time.
        let from = start.saturating_sub(key.length + LATE);
        let counts = |&&(_, end, may_count): &&(Time, Option<Time>, bool)| {
            may_count && end.is_none_or(|end| end >= from)
        };
        // This one counts too.
        let count = key.requests.iter().rev().take(1_000).filter(counts).count() - 1;
        // What Redis has counted without an answer in time may be refused here.
        let fell_back = self.fell_back.is_some_and(|at| from <= at && at <= now);
        count >= key.amount || fell_back
    }

    /// Counts an admitted request. Fails if the limit was exceeded.
    fn count(&mut self, key: usize, start: Time, now: Time) -> Result<(), String> {
        let from = now.saturating_sub(self.keys[key].length);
        let most = self.most_admitted(key, from);
        let key = &mut self.keys[key];
        key.admitted.push((start, now));
        let latest = key.admitted.iter().rev().take_while(|(_, end)| *end > from);
        let count = latest.filter(|(start, _)| *start > from).count();
        match most {
            Some(most) if count > most => Err(format!(
                "{count} requests of {:?} were admitted after {from:?}, and {most} may be",
                key.id
            )),
            _ => Ok(()),
        }
    }

    /// The most requests that may be admitted from a time on; `None` for any number.
    fn most_admitted(&self, key: usize, from: Time) -> Option<usize> {
        let amount = self.keys[key].amount;
        let flushes = self.flushes.iter().filter(|at| **at >= from).count();
        let by_redis = amount * (1 + flushes);
        if self.fell_back.is_none_or(|at| at < from) {
            return Some(by_redis);
        }
        let nodes = self.nodes.iter();
        let nodes = nodes.filter(|node| node.killed.is_none_or(|at| at >= from));
        match self.fallback {
            Fallback::Deny => Some(by_redis),
            Fallback::Local => Some(by_redis + amount * nodes.count()),
            Fallback::Allow => None,
        }
    }
}
