//! The keys, and the commands on them.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use super::super::Network;
use super::super::outbox::Outbox;
use super::{Reply, Subscribers, encoded};

pub(super) struct Keyspace {
    network: Rc<Network>,
    keys: BTreeMap<String, Key>,
    pub(super) subscribers: Subscribers,
}

#[derive(Default)]
struct Key {
    /// Milliseconds since the Unix epoch.
    expires_at: Option<u128>,
    text: String,
    hash: BTreeMap<String, String>,
    set: BTreeSet<String>,
    /// Scores and members, in their order.
    sorted: Vec<(f64, String)>,
}

impl Keyspace {
    pub(super) fn new(network: &Rc<Network>) -> Self {
        Self {
            network: Rc::clone(network),
            keys: BTreeMap::new(),
            subscribers: BTreeMap::new(),
        }
    }

    pub(super) fn flush(&mut self) {
        self.keys.clear();
    }

    pub(super) fn unsubscribe(&mut self, outbox: &Outbox) {
        for subscribers in self.subscribers.values_mut() {
            subscribers.retain(|subscriber| !subscriber.is(outbox));
        }
    }

    /// Runs a command of a script.
    pub(super) fn run(&mut self, command: &[&str]) -> Reply {
        let now = self.network.unix_time();
        self.keys
            .retain(|_, key| key.expires_at.is_none_or(|at| now.as_millis() < at));
        match *command {
            ["TIME"] => list([now.as_secs().to_string(), now.subsec_micros().to_string()]),
            ["PUBLISH", channel, payload] => self.publish(channel, payload),
            ["DEL", name] => Reply::Int(self.keys.remove(name).is_some().into()),
            ["PEXPIRE", name, millis] => {
                let ends_at = now.as_millis() + millis.parse::<u128>().unwrap();
                let key = self.keys.get_mut(name);
                Reply::Int(
                    key.map(|key| key.expires_at = Some(ends_at))
                        .is_some()
                        .into(),
                )
            }
            ["PTTL", name] => Reply::Int(match self.keys.get(name) {
                None => -2,
                Some(key) => key
                    .expires_at
                    .map_or(-1, |at| (at - now.as_millis()) as i64),
            }),
            ["GET", name] => {
                let key = self.keys.get(name);
                key.map_or(Reply::Nil, |key| Reply::Text(key.text.clone()))
            }
            ["SET", name, text, "PX", millis] => {
                let key = self.keys.entry(name.to_owned()).or_default();
                key.text = text.to_owned();
                key.expires_at = Some(now.as_millis() + millis.parse::<u128>().unwrap());
                Reply::Status("OK")
            }
            ["HGETALL", name] => {
                let hash = self.keys.get(name).map(|key| key.hash.iter());
                let words = hash.into_iter().flatten();
                list(words.flat_map(|(field, value)| [field.clone(), value.clone()]))
            }
            ["HSET", name, field, value] => {
                let key = self.keys.entry(name.to_owned()).or_default();
                key.hash.insert(field.to_owned(), value.to_owned());
                Reply::Int(1)
            }
            ["HDEL", name, field] => self.change(name, |key| {
                key.hash.remove(field);
            }),
            ["SADD", name, member] => {
                let key = self.keys.entry(name.to_owned()).or_default();
                Reply::Int(key.set.insert(member.to_owned()).into())
            }
            ["SMEMBERS", name] => {
                let set = self.keys.get(name).map(|key| key.set.iter());
                list(set.into_iter().flatten().cloned())
            }
            ["ZADD", name, ref pairs @ ..] => {
                let key = self.keys.entry(name.to_owned()).or_default();
                for pair in pairs.chunks(2) {
                    key.sorted.retain(|(_, member)| member != pair[1]);
                    key.sorted
                        .push((pair[0].parse().unwrap(), pair[1].to_owned()));
                }
                key.sorted
                    .sort_by(|a, b| a.0.total_cmp(&b.0).then_with(|| a.1.cmp(&b.1)));
                Reply::Int(1)
            }
            ["ZREM", name, member] => {
                self.change(name, |key| key.sorted.retain(|(_, known)| known != member))
            }
            ["ZREMRANGEBYSCORE", name, from, to] => self.change(name, |key| {
                key.sorted.retain(|(score, _)| !is_within(*score, from, to));
            }),
            ["ZRANGE", name, from, to, "WITHSCORES"] => {
                let sorted = self.sorted(name);
                let index = |text: &str| match text.parse::<isize>().unwrap() {
                    index if index < 0 => index + sorted.len() as isize,
                    index => index,
                };
                let (from, to) = (index(from), index(to));
                let all = (0..).zip(sorted).filter(|(at, _)| (from..=to).contains(at));
                with_scores(all.map(|(_, pair)| pair))
            }
            ["ZRANGEBYSCORE", name, from, to] => {
                let all = self.sorted(name).iter();
                let all = all.filter(|(score, _)| is_within(*score, from, to));
                list(all.map(|(_, member)| member.clone()))
            }
            [
                "ZRANGEBYSCORE",
                name,
                from,
                to,
                "WITHSCORES",
                "LIMIT",
                skipped,
                most,
            ] => {
                let all = self.sorted(name).iter();
                let all = all.filter(|(score, _)| is_within(*score, from, to));
                let all = all.skip(skipped.parse().unwrap());
                with_scores(all.take(most.parse().unwrap()))
            }
            _ => panic!("unknown: {command:?}"),
        }
    }

    fn sorted(&self, name: &str) -> &[(f64, String)] {
        self.keys.get(name).map_or(&[], |key| &key.sorted)
    }

    /// Changes a key, and removes it if it is empty then.
    fn change(&mut self, name: &str, change: impl FnOnce(&mut Key)) -> Reply {
        let Some(key) = self.keys.get_mut(name) else {
            return Reply::Int(0);
        };
        change(key);
        if key.hash.is_empty() && key.sorted.is_empty() {
            self.keys.remove(name);
        }
        Reply::Int(1)
    }

    fn publish(&self, channel: &str, payload: &str) -> Reply {
        let words = ["message", channel, payload];
        let message = encoded(&list(words.map(str::to_owned)));
        let subscribers = self.subscribers.get(channel);
        for outbox in subscribers.into_iter().flatten() {
            outbox.send(message.clone());
        }
        Reply::Int(0)
    }
}

fn list(words: impl IntoIterator<Item = String>) -> Reply {
    Reply::List(words.into_iter().map(Reply::Text).collect())
}

fn with_scores<'a>(pairs: impl Iterator<Item = &'a (f64, String)>) -> Reply {
    list(pairs.flat_map(|(score, member)| [member.clone(), score.to_string()]))
}

/// `(` before a bound excludes it.
fn is_within(score: f64, from: &str, to: &str) -> bool {
    let bound = |text: &str| text.trim_start_matches('(').parse::<f64>().unwrap();
    let is_above = match from.starts_with('(') {
        true => score > bound(from),
        false => score >= bound(from),
    };
    is_above && score <= bound(to)
}
