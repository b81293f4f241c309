//! Events for webhooks, from what the writer sees.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use foldhash::fast::RandomState;
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::counter::{Rule, Subject, SubjectId};
use crate::guard::cached_key::{OLD_TEXT_NOTICED_EVERY, is_overridden, rules};
use crate::guard::policy_reloader::PolicyHandle;
use crate::guard::revisions::Revisions;
use crate::limit::Period;
use crate::limiter::Limiter;
use crate::model::{EventType, Key, KeyId, Mark, Org, WebhookEvent};
use crate::policy::CompiledPolicy;
use crate::store::webhooks::{expiry_mark, key_data};
use crate::store::{Store, UsageBatch};
use crate::time::{TimeZone, Timestamp};

/// The most keys whose limits are looked at in one round. Others come in the round after their next request.
const MOST_KEYS: usize = 4_096;

/// The most keys whose rules are in memory.
const MOST_WATCHED: usize = 16_384;

/// The most marks that are in memory. The file has all of them.
const MOST_MARKS: usize = 16_384;

/// The shortest time between two events about a window of a subject.
const SHORTEST_PAUSE: Duration = Duration::from_secs(3_600);
/// The time between two events about credits of a subject.
const DAY: Duration = Duration::from_secs(86_400);

/// How early it is told that a key expires.
const EXPIRES_WITHIN: Duration = Duration::from_secs(7 * 86_400);
/// The most such keys in one round.
const MOST_EXPIRING: usize = 100;

/// Finds out what webhooks are told. Reads counters and keys on the thread of the writer, so that decisions do
/// nothing for it.
pub(crate) struct EventSource {
    store: Arc<dyn Store>,
    policy_handle: Arc<PolicyHandle>,
    revisions: Arc<Revisions>,
    urgent: Arc<UrgentEvents>,
    /// The time zone of days and months.
    zone: TimeZone,
    /// Keys that were lately used, as of the change of this number.
    watched: (u64, HashMap<KeyId, Watched, RandomState>),
    /// Until when an event about this text is not repeated.
    marks: HashMap<String, Timestamp, RandomState>,
    has_fault: bool,
}

/// A key with its organization and the limits of both.
struct Watched {
    key: Key,
    org: Org,
    rules: Vec<Rule>,
}

impl EventSource {
    pub(in crate::guard) fn new(
        store: Arc<dyn Store>,
        policy_handle: Arc<PolicyHandle>,
        revisions: Arc<Revisions>,
        urgent: Arc<UrgentEvents>,
        zone: TimeZone,
    ) -> Self {
        Self {
            store,
            policy_handle,
            revisions,
            urgent,
            zone,
            watched: Default::default(),
            marks: HashMap::default(),
            has_fault: false,
        }
    }

    /// Adds events about limits of the keys in a batch, and of their organizations, of which 80 % or all is used.
    pub(super) fn observe_limits(
        &mut self,
        batch: &mut UsageBatch,
        limiter: &dyn Limiter,
        now: Timestamp,
    ) {
        let mut keys: HashSet<KeyId, RandomState> = HashSet::default();
        let mut subjects: HashSet<SubjectId, RandomState> = HashSet::default();
        let mut last = None;
        for event in &batch.events {
            if last.replace(event.key_id) != Some(event.key_id) && keys.len() < MOST_KEYS {
                keys.insert(event.key_id);
            }
        }
        let mut found = Vec::new();
        for id in keys {
            let Some(watched) = self.watched(id) else {
                continue;
            };
            for subject in [SubjectId::key(id), SubjectId::org(watched.org.id)] {
                // Keys of one organization share its counters.
                if subjects.insert(subject) {
                    found.extend(watched.used_up(subject, limiter, now));
                }
            }
        }
        for Used {
            kind,
            subject,
            rule,
            data,
        } in found
        {
            let until = pause_until(rule.limit.period, now, &self.zone);
            // A raised limit is told anew.
            let (kind_name, amount) = (kind.as_str(), rule.limit.amount);
            let text = format!("{kind_name} {subject} {} {amount}", rule.name());
            self.announce(batch, kind, now, &data, Mark { text, until });
        }
    }

    /// Adds events about keys that were used by a replaced text.
    pub(super) fn observe_old_texts(
        &mut self,
        batch: &mut UsageBatch,
        old_texts: &[(KeyId, Timestamp)],
        now: Timestamp,
    ) {
        for (id, old_text_until) in old_texts {
            let Some(watched) = self.watched(*id) else {
                continue;
            };
            let mut data = watched.shown();
            data["old_text_until"] = json!(old_text_until);
            let mark = Mark {
                text: format!("key.rotated_in_use {id} {}", old_text_until.unix_millis()),
                until: now.plus(OLD_TEXT_NOTICED_EVERY),
            };
            self.announce(batch, EventType::KeyRotatedInUse, now, &data, mark);
        }
    }

    /// Adds events about keys that expire soon.
    pub(super) fn observe_expiries(&self, into: &mut Vec<WebhookEvent>, now: Timestamp) {
        // A failure shows in the next batch of usage, and the next round tries again.
        let keys = self.store.expiring_keys(now, EXPIRES_WITHIN, MOST_EXPIRING);
        for key in keys.unwrap_or_default() {
            let (Ok(org), Some(expires_at)) = (self.store.org(key.org_id), key.expires_at) else {
                continue;
            };
            let mut data = key_data(&key, &org);
            data["expires_at"] = json!(expires_at);
            let mark = Mark {
                text: expiry_mark(key.id, expires_at),
                until: expires_at,
            };
            into.push(WebhookEvent::new(EventType::KeyExpiring, now, &data, mark));
        }
    }

    /// Adds an event when a fault begins. It is sent at once, and stored when the fault is over.
    pub(super) fn observe_fault(
        &mut self,
        into: &mut Vec<WebhookEvent>,
        fault: Option<&str>,
        now: Timestamp,
    ) {
        let had_fault = std::mem::replace(&mut self.has_fault, fault.is_some());
        if let (false, Some(problem)) = (had_fault, fault) {
            let mark = Mark {
                text: format!("disk.fault {}", now.unix_millis()),
                until: now.plus(DAY),
            };
            let data = json!({ "problem": problem });
            let event = WebhookEvent::new(EventType::DiskFault, now, &data, mark);
            self.urgent.add(event.clone());
            into.push(event);
        }
    }

    /// Adds an event, unless there was one about the same lately.
    fn announce(
        &mut self,
        batch: &mut UsageBatch,
        kind: EventType,
        now: Timestamp,
        data: &Value,
        mark: Mark,
    ) {
        let known = self.marks.get(&mark.text);
        if known.is_some_and(|until| now < *until && *until <= mark.until) {
            return;
        }
        if self.marks.len() >= MOST_MARKS {
            self.marks.clear();
        }
        self.marks.insert(mark.text.clone(), mark.until);
        let event = WebhookEvent::new(kind, now, data, mark);
        batch.webhook_events.push(event);
    }

    /// Returns a key with its limits; `None` if it cannot be read.
    fn watched(&mut self, id: KeyId) -> Option<&Watched> {
        let changes = self.revisions.all();
        let (as_of, known) = &mut self.watched;
        if *as_of != changes || known.len() >= MOST_WATCHED {
            known.clear();
            *as_of = changes;
        }
        match known.entry(id) {
            Entry::Occupied(watched) => Some(watched.into_mut()),
            Entry::Vacant(place) => {
                let watched = Watched::read(&*self.store, &self.policy_handle.load(), id)?;
                Some(place.insert(watched))
            }
        }
    }
}

/// A limit of which much is used.
struct Used {
    kind: EventType,
    /// For the mark.
    subject: String,
    rule: Rule,
    data: Value,
}

impl Watched {
    fn read(store: &dyn Store, policy: &CompiledPolicy, id: KeyId) -> Option<Self> {
        let resolved = store.resolve_id(id).ok()??;
        let (key, org) = (resolved.key, resolved.org);
        let mut rules = rules(&key, &org, policy);
        rules.extend(policy.routes().flat_map(|route| route.key_rules.clone()));
        rules.retain(|rule| !rule.limit.shadow && rule.limit.period != Period::Concurrent);
        Some(Self { key, org, rules })
    }

    /// Returns the limits of a subject of which 80 % or all is used.
    fn used_up(&self, subject: SubjectId, limiter: &dyn Limiter, now: Timestamp) -> Vec<Used> {
        let is_of_key = subject == SubjectId::key(self.key.id);
        let of_subject = match is_of_key {
            true => Subject::Key,
            false => Subject::Org,
        };
        let rules = self.rules.iter().filter(|rule| rule.subject == of_subject);
        let rules: Vec<&Rule> = rules.collect();
        let mut found = Vec::new();
        // Under the lock of the counters, so nothing else is done here.
        limiter.used(subject, &mut |id, used| {
            let matching = rules.iter().filter(|rule| id.is_for(rule));
            let much = matching.filter(|rule| is_warning(used, rule.limit.amount.get()));
            found.extend(much.map(|rule| (*rule, used)));
        });
        found.retain(|(rule, _)| !is_overridden(rule, &self.key, &self.org, now));
        let mut events = Vec::new();
        for (rule, used) in found {
            let amount = rule.limit.amount.get();
            let mut data = self.shown();
            if !is_of_key {
                data["key"] = Value::Null;
            }
            data["limit"] = json!({ "name": rule.name(), "amount": amount, "used": used });
            let warning = Some(EventType::LimitWarning);
            let reached = (used >= amount).then_some(EventType::LimitReached);
            events.extend(warning.into_iter().chain(reached).map(|kind| Used {
                kind,
                subject: match is_of_key {
                    true => format!("key {}", self.key.id),
                    false => format!("org {}", self.org.id),
                },
                rule: rule.clone(),
                data: data.clone(),
            }));
        }
        events
    }

    fn shown(&self) -> Value {
        key_data(&self.key, &self.org)
    }
}

/// Whether at least 80 % are used.
fn is_warning(used: u64, amount: u64) -> bool {
    u128::from(used) * 5 >= u128::from(amount) * 4
}

/// Until when an event about a limit is not repeated: the end of the day, the month or the window, which counts as
/// an hour at least.
fn pause_until(period: Period, now: Timestamp, zone: &TimeZone) -> Timestamp {
    match period {
        Period::Day => zone.end_of_day(now),
        Period::Month => zone.end_of_month(now),
        Period::Sliding(length) => {
            let length = Duration::from_nanos(length.nanos());
            now.plus(length.max(SHORTEST_PAUSE))
        }
        Period::Credits(_) | Period::Concurrent => now.plus(DAY),
    }
}

/// Events that cannot be stored now, because the store itself fails. The latest ones are kept.
#[derive(Default)]
pub(crate) struct UrgentEvents(Mutex<UrgentQueue>);

#[derive(Default)]
struct UrgentQueue {
    events: VecDeque<WebhookEvent>,
    /// The number of the event after the last one.
    next: u64,
}

impl UrgentEvents {
    const CAPACITY: usize = 16;

    fn add(&self, event: WebhookEvent) {
        let mut queue = self.0.lock();
        if queue.events.len() == Self::CAPACITY {
            queue.events.pop_front();
        }
        queue.events.push_back(event);
        queue.next += 1;
    }

    /// Returns the events from the number `from` on, and sets it to the number after them.
    #[cfg_attr(not(feature = "serve"), allow(dead_code))]
    pub(crate) fn take_from(&self, from: &mut u64) -> Vec<WebhookEvent> {
        let queue = self.0.lock();
        let first = queue.next - queue.events.len() as u64;
        let skipped = usize::try_from(from.saturating_sub(first)).unwrap_or(usize::MAX);
        *from = queue.next;
        queue.events.iter().skip(skipped).cloned().collect()
    }
}
