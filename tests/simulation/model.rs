//! A naive guard: lists that are searched from the start, and nothing cached.

use keyguard::{KeyId, OrgId, Reason};

use crate::limit::{Admitted, Limit, Now, Subject, Taken};

/// Failed authentications of a kind in an hour that do not lock an address.
pub(crate) const THRESHOLD: u64 = 4;

/// How long an address is locked for failed authentications, in milliseconds.
const LOCKED_FOR: u64 = 24 * 3_600_000;

/// A lock that begins further ahead than this, in milliseconds, is from a wrong clock.
const TOLERANCE: u64 = 60_000;

/// Paths by what they need.
pub(crate) const PATHS: [&str; 5] = [
    "/api/data",
    "/api//%64ata/?page=2",
    "/api/admin",
    "/api/health",
    "/open",
];

/// The policy under which the paths are what they are.
pub(crate) const POLICY: &str = r#"
    protect = ["/api"]
    exempt = ["/api/health"]
    [[route]]
    name = "admin"
    path = "/api/admin"
    scopes = ["admin"]
"#;

/// The path of a lock on a path.
pub(crate) const LOCKED_PATH: &str = "/api/data";

#[derive(Clone, Debug)]
pub(crate) struct Org {
    pub(crate) id: OrgId,
    pub(crate) name: String,
    pub(crate) is_suspended: bool,
    pub(crate) subject: Subject,
}

#[derive(Clone, Debug)]
pub(crate) struct Key {
    pub(crate) id: KeyId,
    pub(crate) org: usize,
    /// The texts by which it is known, the latest last.
    pub(crate) texts: Vec<Text>,
    pub(crate) is_revoked: bool,
    pub(crate) is_suspended: bool,
    /// In milliseconds since the Unix epoch, like all times here that are no [`Now`].
    pub(crate) expires_at: Option<u64>,
    pub(crate) is_admin: bool,
    /// The only address from which it is accepted.
    pub(crate) only_from: Option<usize>,
    pub(crate) subject: Subject,
    /// The recorded requests.
    pub(crate) requests: u64,
}

#[derive(Clone, Debug)]
pub(crate) struct Text {
    pub(crate) text: String,
    pub(crate) expires_at: Option<u64>,
}

impl Key {
    pub(crate) fn is_active(&self, now: Now) -> bool {
        !self.is_revoked && !self.is_suspended && !self.is_expired(now)
    }

    pub(crate) fn is_expired(&self, now: Now) -> bool {
        self.expires_at.is_some_and(|at| at <= now.unix)
    }
}

/// A kind of failed authentication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Failure {
    BadKey,
    MissingKey,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    All,
    Keyless,
    /// [`LOCKED_PATH`].
    Path,
}

#[derive(Clone, Debug)]
pub(crate) struct Lock {
    pub(crate) address: usize,
    pub(crate) scope: Scope,
    pub(crate) is_manual: bool,
    pub(crate) since: u64,
    pub(crate) until: u64,
}

/// What a request presents as its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Presented {
    Nothing,
    Malformed,
    Unknown,
    /// The key header twice.
    Twice,
    /// Texts of two different keys.
    Two,
    /// A text of a key, as indexes.
    Text(usize, usize),
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Sent {
    /// `None` for a Unix socket.
    pub(crate) address: Option<usize>,
    pub(crate) path: usize,
    pub(crate) presented: Presented,
    pub(crate) cost: u64,
    pub(crate) request: u64,
}

/// What becomes of a request.
#[derive(Debug)]
pub(crate) enum Outcome {
    WithoutKey,
    Admitted {
        key: usize,
        admitted: Admitted,
        /// From the key and from its organization.
        taken: [Taken; 2],
        /// What the tightest limit still admits.
        remaining: Option<u64>,
        shadow_denied: usize,
    },
    /// For one of these reasons: of several exhausted limits, the one that takes longest is named.
    Refused(Vec<Reason>),
}

/// The requests that are recorded.
#[derive(Clone, Debug, Default)]
pub(crate) struct Totals {
    pub(crate) requests: u64,
    pub(crate) errors: u64,
    pub(crate) refused: Vec<(Reason, u64)>,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Model {
    pub(crate) orgs: Vec<Org>,
    pub(crate) keys: Vec<Key>,
    pub(crate) locks: Vec<Lock>,
    pub(crate) totals: Totals,
    failures: Vec<(usize, Failure, Subject)>,
}

impl Model {
    /// Decides about a request, and counts it.
    pub(crate) fn decide(&mut self, sent: Sent, now: Now) -> Outcome {
        if PATHS[sent.path] == "/api/health" {
            return Outcome::WithoutKey;
        }
        let is_on_locked_path = sent.path < 2;
        let locks = self.locks.iter();
        let mut scopes = locks
            .filter(|lock| Some(lock.address) == sent.address && now.unix < lock.until)
            .map(|lock| lock.scope);
        let is_locked = |scope| scope == Scope::All || scope == Scope::Path && is_on_locked_path;
        if scopes.clone().any(is_locked) {
            return self.refuse(None, vec![Reason::IpLocked]);
        }
        if PATHS[sent.path] == "/open" {
            return Outcome::WithoutKey;
        }
        let refusal = match sent.presented {
            Presented::Nothing if scopes.any(|scope| scope == Scope::Keyless) => Reason::IpLocked,
            Presented::Nothing => Reason::MissingKey,
            Presented::Malformed => Reason::MalformedKey,
            Presented::Unknown => Reason::UnknownKey,
            Presented::Twice => Reason::RepeatedHeader,
            Presented::Two => Reason::AmbiguousKey,
            Presented::Text(key, text) => return self.decide_with_key(sent, key, text, now),
        };
        if let Some(address) = sent.address {
            self.count_failure(address, refusal, now);
        }
        self.refuse(None, vec![refusal])
    }

    fn decide_with_key(&mut self, sent: Sent, at: usize, text: usize, now: Now) -> Outcome {
        let key = &mut self.keys[at];
        let org = &mut self.orgs[key.org];
        let has_ended = |until: Option<u64>| until.is_some_and(|until| until <= now.unix);
        let limits = || key.subject.limits.iter().chain(&org.subject.limits);
        let reason = if key.is_revoked {
            Some(Reason::RevokedKey)
        } else if key.is_suspended {
            Some(Reason::SuspendedKey)
        } else if has_ended(key.expires_at) || has_ended(key.texts[text].expires_at) {
            Some(Reason::ExpiredKey)
        } else if org.is_suspended {
            Some(Reason::SuspendedOrg)
        } else if key.only_from.is_some() && key.only_from != sent.address {
            Some(Reason::IpNotAllowed)
        } else if PATHS[sent.path] == "/api/admin" && !key.is_admin {
            Some(Reason::MissingScope)
        } else if limits().any(|limit| !limit.shadow && limit.takes(sent.cost) > limit.amount) {
            Some(Reason::CostAboveLimit)
        } else {
            None
        };
        if let Some(reason) = reason {
            return self.refuse(Some(at), vec![reason]);
        }
        let mut refusing = Vec::new();
        let mut shadow_denied = 0;
        for subject in [&mut key.subject, &mut org.subject] {
            let remaining = subject.remaining(now);
            let full = subject.limits.iter().zip(remaining);
            for (limit, _) in full.filter(|(limit, left)| limit.takes(sent.cost) > *left) {
                match limit.shadow {
                    true => shadow_denied += 1,
                    false => refusing.push(limit.reason()),
                }
            }
        }
        if !refusing.is_empty() {
            return self.refuse(Some(at), refusing);
        }
        let mut tightest = None;
        let taken = [&mut key.subject, &mut org.subject].map(|subject| {
            let taken = subject.take(now, sent.cost, sent.request);
            let left = subject.remaining(now);
            let shown = subject.limits.iter().zip(left);
            let shown = shown.filter(|(limit, _)| limit.is_shown());
            tightest = shown.map(|(_, left)| left).chain(tightest).min();
            taken
        });
        Outcome::Admitted {
            key: at,
            admitted: Admitted {
                at: now.nanos,
                cost: sent.cost,
                request: sent.request,
            },
            taken,
            remaining: tightest,
            shadow_denied,
        }
    }

    fn refuse(&mut self, key: Option<usize>, reasons: Vec<Reason>) -> Outcome {
        self.totals.requests += 1;
        self.totals.errors += 1;
        if let Some(key) = key {
            self.keys[key].requests += 1;
        }
        Outcome::Refused(reasons)
    }

    /// Notes which of the expected reasons a refusal had.
    pub(crate) fn note_reason(&mut self, reason: Reason) {
        let refused = &mut self.totals.refused;
        match refused.iter_mut().find(|(known, _)| *known == reason) {
            Some((_, count)) => *count += 1,
            None => refused.push((reason, 1)),
        }
    }

    /// Corrects the cost of an admitted request.
    pub(crate) fn settle(
        &mut self,
        key: usize,
        now: Now,
        taken: &[Taken; 2],
        admitted: Admitted,
        actual: u64,
    ) {
        for (subject, taken) in self.subjects(key).into_iter().zip(taken) {
            subject.settle(now, taken, admitted, actual);
        }
    }

    /// Ends an admitted request. A status of 0 stands for one that was not finished.
    pub(crate) fn end(&mut self, key: usize, taken: &[Taken; 2], status: u16) {
        self.keys[key].requests += 1;
        self.totals.requests += 1;
        self.totals.errors += u64::from(status >= 400);
        for (subject, taken) in self.subjects(key).into_iter().zip(taken) {
            subject.release(taken);
        }
    }

    /// A key and its organization.
    pub(crate) fn subjects(&mut self, key: usize) -> [&mut Subject; 2] {
        let key = &mut self.keys[key];
        [&mut key.subject, &mut self.orgs[key.org].subject]
    }

    fn count_failure(&mut self, address: usize, reason: Reason, now: Now) {
        let failure = match reason {
            Reason::MalformedKey | Reason::UnknownKey => Failure::BadKey,
            Reason::MissingKey => Failure::MissingKey,
            _ => return,
        };
        let known = |(of, kind, _): &(usize, Failure, Subject)| (*of, *kind) == (address, failure);
        let at = self.failures.iter().position(known).unwrap_or_else(|| {
            let mut subject = Subject::default();
            subject.set_limits([Limit::per_hour(THRESHOLD)]);
            self.failures.push((address, failure, subject));
            self.failures.len() - 1
        });
        let subject = &mut self.failures[at].2;
        if !subject.take(now, 1, u64::MAX).is_empty() {
            return;
        }
        let scope = match failure {
            Failure::BadKey => Scope::All,
            Failure::MissingKey => Scope::Keyless,
        };
        self.lock(Lock {
            address,
            scope,
            is_manual: false,
            since: now.unix,
            until: now.unix + LOCKED_FOR,
        });
    }

    /// Adds a lock, joined with a known one of the same requests: the later of two that do not overlap,
    /// else both together.
    pub(crate) fn lock(&mut self, lock: Lock) {
        let is_same = |known: &&mut Lock| {
            (known.address, known.scope, known.is_manual)
                == (lock.address, lock.scope, lock.is_manual)
        };
        match self.locks.iter_mut().find(is_same) {
            None => self.locks.push(lock),
            Some(known) if known.until <= lock.since => *known = lock,
            Some(known) if lock.until <= known.since => {}
            Some(known) => {
                known.since = known.since.min(lock.since);
                known.until = known.until.max(lock.until);
            }
        }
    }

    /// Whether the limits of a key have room for a cost.
    pub(crate) fn has_room(&mut self, key: usize, cost: u64, now: Now) -> bool {
        self.subjects(key).into_iter().all(|subject| {
            let remaining = subject.remaining(now);
            let mut limits = subject.limits.iter().zip(remaining);
            limits.all(|(limit, left)| limit.shadow || limit.takes(cost) <= left)
        })
    }

    pub(crate) fn active_locks(&self, now: Now) -> usize {
        let locks = self.locks.iter();
        locks.filter(|lock| now.unix < lock.until).count()
    }

    /// Ends all locks of an address, and forgets its failed authentications.
    pub(crate) fn unlock(&mut self, address: usize) {
        self.locks.retain(|lock| lock.address != address);
        let failures = self.failures.iter_mut();
        for (.., subject) in failures.filter(|(of, ..)| *of == address) {
            subject.reset();
        }
    }

    /// Maintenance under a calendar that is known to be right: removes locks that have ended, and moves
    /// those back that begin in the future.
    pub(crate) fn maintain(&mut self, now: Now) {
        for lock in &mut self.locks {
            let ahead = lock.since.saturating_sub(now.unix);
            if ahead > TOLERANCE {
                lock.since -= ahead;
                lock.until -= ahead;
            }
        }
        self.locks.retain(|lock| now.unix < lock.until);
    }

    pub(crate) fn stop(&mut self, now: Now) {
        // All windows of addresses are replaced.
        for (.., subject) in &mut self.failures {
            subject.forget_saved();
        }
        self.all_subjects().for_each(|subject| subject.stop(now));
    }

    pub(crate) fn start(&mut self, now: Now) {
        self.all_subjects().for_each(|subject| subject.start(now));
    }

    fn all_subjects(&mut self) -> impl Iterator<Item = &mut Subject> {
        let keys = self.keys.iter_mut().map(|key| &mut key.subject);
        let orgs = self.orgs.iter_mut().map(|org| &mut org.subject);
        let failures = self.failures.iter_mut().map(|(.., subject)| subject);
        keys.chain(orgs).chain(failures)
    }
}
