//! Counts of requests by group, compared with a naive count of all requests.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};

use super::{Changes, NOW, TestDatabase, after, audit_context, batch, event, new_key};
use crate::model::{KeyId, OrgId, Reason, Usage, UsageGroup, UsageQuery};
use crate::net::ClientIp;
use crate::store::usage_counts::GroupValue;
use crate::store::{Count, Store, UsageBatch, UsageEvent};
use crate::time::Timestamp;

const GROUPS: [UsageGroup; 8] = [
    UsageGroup::Minute,
    UsageGroup::Hour,
    UsageGroup::Day,
    UsageGroup::Key,
    UsageGroup::Path,
    UsageGroup::Status,
    UsageGroup::Ip,
    UsageGroup::Reason,
];

/// The time of the questions: 40 hours after the first request.
const HOURS: u64 = 40;

pub(in crate::store) fn usage_is_counted_by_any_group(database: &dyn TestDatabase) {
    let store = with_traffic(database);
    let naive = Naive::new(&*store);
    for by in GROUPS {
        for filtered in filters(by) {
            for query in ranges(&filtered) {
                let counts = store.count_usage(&query, after(60 * HOURS)).unwrap();
                let (total, rows) = naive.count(&query, counts.includes_keyless);
                assert_eq!(counts.total, total, "{query:?}");
                assert_eq!(counts.rows, rows, "{query:?}");
            }
        }
    }
}

pub(in crate::store) fn limit_of_counted_usage_keeps_the_total(database: &dyn TestDatabase) {
    let store = with_traffic(database);
    for by in GROUPS {
        let all = UsageQuery::by(by).since(after(61)).refused();
        let all = store.count_usage(&all, after(60 * HOURS)).unwrap();
        let some = UsageQuery::by(by).since(after(61)).refused().limit(2);
        let some = store.count_usage(&some, after(60 * HOURS)).unwrap();
        assert_eq!(some.total, all.total);
        let rows = match by.period_millis() {
            Some(_) => &all.rows[all.rows.len() - 2..],
            None => &all.rows[..2],
        };
        assert_eq!(some.rows, rows, "{by}");
        let none = UsageQuery::by(by).since(after(61)).refused().limit(0);
        let none = store.count_usage(&none, after(60 * HOURS)).unwrap();
        assert_eq!((none.total, none.rows), (all.total, Vec::new()));
    }
}

/// Without individual requests, totals of whole hours are counted instead.
pub(in crate::store) fn usage_without_rows_is_counted_by_whole_hours(database: &dyn TestDatabase) {
    let store = database.open();
    let org = store.add_org("acme");
    store.add_key(org.id, 1);
    let elsewhere = |at| UsageBatch {
        has_rows_elsewhere: true,
        ..batch([(event(1, at), "/")])
    };
    for minute in [10, 70, 130] {
        store.record(&elsewhere(after(minute))).unwrap();
    }
    let query = UsageQuery::by(UsageGroup::Key).since(after(75));
    let counts = store.count_usage(&query, after(140)).unwrap();
    assert_eq!(counts.since, Some(after(60)));
    assert_eq!(counts.until, None);
    assert_eq!(counts.total.requests, 2);
    let by_path = UsageQuery::by(UsageGroup::Path).since(after(75));
    assert_eq!(store.count_usage(&by_path, after(140)).unwrap().rows, []);
}

pub(in crate::store) fn totals_count_usage_after_its_rows_are_deleted(database: &dyn TestDatabase) {
    let store = with_traffic(database);
    let naive = Naive::new(&*store);
    let days = 24 * 60;
    let now = after(100 * days);
    store.prune(after(99 * days), now).unwrap();
    assert_eq!(store.usage(None, Timestamp::default(), 9).unwrap(), []);
    for by in [UsageGroup::Key, UsageGroup::Day] {
        let query = UsageQuery::by(by).key_id(KeyId(2));
        let counts = store.count_usage(&query, now).unwrap();
        assert_eq!((counts.total, counts.rows), naive.count(&query, false));
    }
    let query = UsageQuery::by(UsageGroup::Key)
        .since(NOW)
        .until(after(days));
    let counts = store.count_usage(&query, now).unwrap();
    assert_eq!((counts.total, counts.rows), naive.count(&query, false));
}

pub(in crate::store) fn pages_of_usage_have_every_request_once(database: &dyn TestDatabase) {
    let store = with_traffic(database);
    let all = store.usage(None, Timestamp::default(), usize::MAX).unwrap();
    for filtered in filters(UsageGroup::Key) {
        for query in ranges(&filtered) {
            let (mut rows, mut from) = (Vec::new(), 0);
            loop {
                let page = store.usage_page(&query, from, 7).unwrap();
                assert!(page.rows.len() <= 7);
                rows.extend(page.rows);
                match page.next {
                    Some(next) => from = next,
                    None => break,
                }
            }
            let expected = all.iter().filter(|usage| is_counted(&query, usage));
            assert_eq!(rows, expected.cloned().collect::<Vec<_>>(), "{query:?}");
        }
    }
}

/// Three keys of two organizations, with requests over 39 hours and refusals without a known key.
fn with_traffic(database: &dyn TestDatabase) -> Box<dyn Store> {
    let store = database.open();
    let (one, other) = (store.add_org("acme"), store.add_org("globex"));
    let keys = vec![new_key(one.id, 1), new_key(one.id, 2), new_key(other.id, 3)];
    store.create_keys(keys, &audit_context()).unwrap();
    let requests = 390;
    for start in (0..requests).step_by(130) {
        let mut batch = batch((start..start + 130).map(request));
        let mut refusals = [0; Reason::COUNT];
        refusals[Reason::UnknownKey as usize] = 3;
        refusals[Reason::MissingKey as usize] = start;
        for minute in [start * 6, start * 6 + 61] {
            batch.refusals.push((after(minute).minute(), refusals));
        }
        store.record(&batch).unwrap();
    }
    store
}

/// The requests are a few minutes apart, some at the start of an hour.
fn request(number: u64) -> (UsageEvent, &'static str) {
    let mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
    let ips: [ClientIp; 4] = [
        IpAddr::from([192, 0, 2, 7]).into(),
        IpAddr::from([192, 0, 2, 130]).into(),
        Ipv6Addr::from_bits(0x2001_0db8 << 96 | 7).into(),
        ClientIp::LOCAL,
    ];
    let refused = [
        None,
        None,
        None,
        Some(Reason::RateLimited),
        Some(Reason::MissingScope),
    ];
    let refused = refused[(mixed % 5) as usize];
    let status = [200, 0, 404, 500][(mixed / 5 % 4) as usize];
    let paths = ["/", "/v1/items", "/v1/items/7", "/v2/items"];
    let event = UsageEvent {
        ip: ips[(mixed / 20 % 4) as usize],
        refused,
        status: refused.map_or(status, Reason::status),
        ..event(1 + mixed / 80 % 3, after(number * 6))
    };
    (event, paths[(mixed / 240 % 4) as usize])
}

fn filters(by: UsageGroup) -> Vec<UsageQuery> {
    let all = UsageQuery::by(by);
    vec![
        all.clone(),
        all.clone().key_id(KeyId(2)),
        all.clone().org_id(OrgId(1)),
        all.clone().org_id(OrgId(1)).key_id(KeyId(2)),
        all.clone().org_id(OrgId(2)).key_id(KeyId(2)),
        all.clone().refused(),
        all.clone().reason(Reason::RateLimited),
        all.clone().reason(Reason::UnknownKey),
        all.clone().key_id(KeyId(3)).refused(),
        all.clone().status("4xx"),
        all.clone().status(200),
        all.clone().path("/v1/items"),
        all.clone().path("/v1/*"),
        all.clone().ip("192.0.2.7"),
        all.clone().ip("192.0.2.0/24, local"),
        all.clone().ip("2001:db8::/32"),
        all.ip("::/0").org_id(OrgId(2)).status(404).path("/*"),
    ]
}

/// The same question over all times, and over ranges that begin and end within an hour, within one hour
/// and at whole hours.
fn ranges(query: &UsageQuery) -> Vec<UsageQuery> {
    let since = |minutes| query.clone().since(after(minutes));
    vec![
        query.clone(),
        since(90),
        since(90).until(after(15 * 60 + 12)),
        since(12 * 60 + 5).until(after(12 * 60 + 41)),
        since(24 * 60).until(after(30 * 60)),
        since(60 * (HOURS + 1)),
    ]
}

/// All requests, and the refusals without a known key by minute.
struct Naive {
    requests: Vec<Usage>,
    keyless: Vec<Usage>,
}

impl Naive {
    fn new(store: &dyn Store) -> Self {
        let requests = store.usage(None, Timestamp::default(), usize::MAX).unwrap();
        assert_eq!(requests.len(), 390);
        let mut keyless = Vec::new();
        for start in [0, 130, 260_u64] {
            for at in [start * 6, start * 6 + 61].map(after) {
                let refused = |reason, count: u64| {
                    let usage = Usage {
                        at,
                        key_id: None,
                        refused: Some(reason),
                        ..requests[0].clone()
                    };
                    std::iter::repeat_n(usage, count as usize)
                };
                keyless.extend(refused(Reason::UnknownKey, 3));
                keyless.extend(refused(Reason::MissingKey, start));
            }
        }
        Self { requests, keyless }
    }

    fn count(
        &self,
        query: &UsageQuery,
        includes_keyless: bool,
    ) -> (Count, Vec<(GroupValue, Count)>) {
        let (mut total, mut rows) = (Count::default(), BTreeMap::<_, Count>::new());
        let keyless = self.keyless.iter().filter(|_| includes_keyless);
        for usage in self.requests.iter().chain(keyless) {
            if !is_counted(query, usage) {
                continue;
            }
            let count = Count {
                requests: 1,
                errors: u64::from(usage.refused.is_some() || usage.status >= 400),
            };
            total.add(count);
            rows.entry(group(query.by, usage)).or_default().add(count);
        }
        let mut rows: Vec<_> = rows.into_iter().collect();
        if query.by.period_millis().is_none() {
            rows.sort_by_key(|(_, count)| Reverse(count.requests));
        }
        (total, rows)
    }
}

fn is_counted(query: &UsageQuery, usage: &Usage) -> bool {
    let filter = &query.filter;
    let org = usage.key_id.map(|key| OrgId(1 + u64::from(key.0 == 3)));
    (query.since..query.until).contains(&usage.at)
        && filter.key.is_none_or(|key| usage.key_id == Some(key))
        && filter.org.is_none_or(|wanted| org == Some(wanted))
        && (!filter.refused || usage.refused.is_some())
        && filter
            .reason
            .is_none_or(|reason| usage.refused == Some(reason))
        && filter
            .statuses
            .is_none_or(|range| range.contains(usage.status))
        && filter
            .path
            .as_ref()
            .is_none_or(|path| path.accepts(&usage.path))
        && filter.ips.as_ref().is_none_or(|ips| ips.contains(usage.ip))
}

fn group(by: UsageGroup, usage: &Usage) -> GroupValue {
    let start = |unit: u64| {
        let at = usage.at.unix_millis();
        GroupValue::Start(Timestamp::from_unix_millis(at - at % unit))
    };
    match by {
        UsageGroup::Minute => start(60_000),
        UsageGroup::Hour => start(3_600_000),
        UsageGroup::Day => start(86_400_000),
        UsageGroup::Key => GroupValue::Key(usage.key_id.unwrap()),
        UsageGroup::Path => GroupValue::Path(usage.path.clone()),
        UsageGroup::Status => GroupValue::Status(usage.status),
        UsageGroup::Ip => GroupValue::Ip(usage.ip),
        UsageGroup::Reason => GroupValue::Reason(usage.refused),
    }
}
