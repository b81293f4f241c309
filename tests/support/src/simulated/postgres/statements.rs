//! The statements of KeyGuard: their types, and their effects on [`Tables`].

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio_postgres::types::{FromSqlOwned, IsNull, ToSql, Type};

use super::tables::{Change, Credential, Tables};

pub(super) struct Statement {
    pub(super) params: Vec<Type>,
    pub(super) columns: Vec<Type>,
    pub(super) run: Run,
    pub(super) writes: bool,
    pub(super) is_copy: bool,
}

type Run = fn(&mut Tables, &Call<'_>) -> Outcome;

type Cell = Box<dyn ToSql>;

#[derive(Default)]
pub(super) struct Outcome {
    pub(super) rows: Vec<Vec<Cell>>,
    pub(super) affected: u64,
}

/// One execution.
pub(super) struct Call<'a> {
    pub(super) pid: i32,
    pub(super) now: Duration,
    pub(super) types: &'a [Type],
    pub(super) params: Vec<Option<Bytes>>,
}

impl Call<'_> {
    fn get<T: FromSqlOwned>(&self, index: usize) -> T {
        T::from_sql_nullable(&self.types[index], self.params[index].as_deref()).unwrap()
    }

    fn now(&self) -> OffsetDateTime {
        OffsetDateTime::UNIX_EPOCH + self.now
    }
}

pub(super) fn encode(cell: &dyn ToSql, column: &Type, message: &mut BytesMut) {
    let mut value = BytesMut::new();
    match cell.to_sql_checked(column, &mut value).unwrap() {
        IsNull::Yes => message.put_i32(-1),
        IsNull::No => {
            message.put_i32(value.len() as i32);
            message.put_slice(&value);
        }
    }
}

macro_rules! row {
    ($($cell:expr),* $(,)?) => { vec![$(Box::new($cell) as Cell),*] };
}

fn rows(rows: impl IntoIterator<Item = Vec<Cell>>) -> Outcome {
    let rows = rows.into_iter().collect();
    Outcome { rows, affected: 0 }
}

fn affected(affected: usize) -> Outcome {
    Outcome {
        rows: Vec::new(),
        affected: affected as u64,
    }
}

/// The columns of an organization, of a key, and of their balances.
const ORG: &str = "int8 text text text[] jsonb timestamptz";
const KEY: &str = "int8 int8 text text bool text int8 text[] text[] jsonb timestamptz timestamptz \
    timestamptz bool";
const BALANCES: &str = "int8[] bytea[] int8[] int8[]";

/// The statement of a text.
pub(super) fn named(sql: &str) -> Statement {
    let is = |start: &str| sql.starts_with(start);
    let ends = |end: &str| sql.ends_with(end);
    if is("SELECT to_regclass('keyguard_meta')") {
        read("", "bool bool", |_, _| rows([row![true, true]]))
    } else if is("SELECT value FROM keyguard_meta") {
        read("text", "text", |tables, call| {
            rows(
                tables
                    .meta
                    .get(&call.get::<String>(0))
                    .map(|value| row![value.clone()]),
            )
        })
    } else if is("SELECT has_schema_privilege") {
        read("", "bool bool text", |_, _| {
            rows([row![true, true, None::<String>]])
        })
    } else if is("SELECT clock_timestamp()") {
        read("", "timestamptz", |_, call| rows([row![call.now()]]))
    } else if ends("WHERE c.hash = $1") {
        let columns = format!("{KEY} {ORG} {BALANCES} timestamptz int2");
        read("bytea", &columns, resolve)
    } else if ends("b WHERE k.id = $1") {
        read(
            "int8",
            &format!("{KEY} {ORG} {BALANCES}"),
            |tables, call| {
                rows(
                    tables
                        .keys
                        .get(&call.get::<i64>(0))
                        .map(|key| resolved(tables, key)),
                )
            },
        )
    } else if is("SELECT counter, used, at FROM keyguard_balances") {
        read("int8", "bytea int8 int8", |tables, call| {
            let subject: i64 = call.get(0);
            let of = tables.balances.iter().filter(|((of, _), _)| *of == subject);
            rows(of.map(|((_, counter), (used, at))| row![counter.clone(), *used, *at]))
        })
    } else if is("SELECT name FROM organizations WHERE skeleton") {
        read("text", "text", |tables, call| {
            let skeleton: String = call.get(0);
            let of = tables
                .orgs
                .values()
                .find(|org| text(org, "skeleton") == skeleton);
            rows(of.map(|org| row![text(org, "name")]))
        })
    } else if ends("FROM organizations o WHERE o.id = $1") {
        read("int8", ORG, |tables, call| {
            rows(tables.orgs.get(&call.get::<i64>(0)).map(org))
        })
    } else if ends("FROM organizations o WHERE o.name = $1") {
        read("text", ORG, |tables, call| {
            let name: String = call.get(0);
            rows(
                tables
                    .orgs
                    .values()
                    .find(|org| text(org, "name") == name)
                    .map(org),
            )
        })
    } else if ends("FROM api_keys k WHERE k.id = $1") {
        read("int8", KEY, |tables, call| {
            rows(tables.keys.get(&call.get::<i64>(0)).map(key))
        })
    } else if is("SELECT wanted FROM") {
        read("int8[]", "int8", |tables, call| {
            let wanted: Vec<i64> = call.get(0);
            let mut missing = wanted
                .into_iter()
                .filter(|id| !tables.orgs.contains_key(id));
            rows(missing.next().map(|id| row![id]))
        })
    } else if is("UPDATE keyguard_state SET generation") {
        write("", "int8", |tables, _| {
            tables.generation += 1;
            rows([row![tables.generation]])
        })
    } else if is("UPDATE keyguard_state SET last_org_id") {
        write("", "int8", |tables, _| {
            tables.last_org_id += 1;
            rows([row![tables.last_org_id]])
        })
    } else if is("UPDATE keyguard_state SET last_key_id") {
        write("int8", "int8", |tables, call| {
            let last = tables.last_key_id;
            tables.last_key_id += call.get::<i64>(0);
            rows([row![last]])
        })
    } else if is("UPDATE keyguard_state SET active_keys") {
        write("int8", "", |_, _| affected(1))
    } else if is("INSERT INTO organizations") {
        write("json", "", |tables, call| {
            put(
                Rc::make_mut(&mut tables.orgs),
                call,
                &["status", "limits", "overrides"],
            )
        })
    } else if is("INSERT INTO api_keys") {
        const CHANGED: &[&str] = &[
            "label",
            "prefix",
            "active",
            "suspended",
            "scopes",
            "rate_limit_per_minute",
            "expires_at",
            "limits",
            "allowed_ips",
            "overrides",
        ];
        write("json", "", |tables, call| {
            put(Rc::make_mut(&mut tables.keys), call, CHANGED)
        })
    } else if is("INSERT INTO keyguard_credentials") {
        let params = "bytea[] int8[] int2[] int4[] timestamptz[] timestamptz[]";
        write(params, "", insert_credentials)
    } else if is("INSERT INTO keyguard_changes") {
        write("int8 text[] int8[] bytea[]", "", publish)
    } else if is("SELECT pg_notify") {
        write("", "text", |tables, call| {
            tables.notifier = Some(call.pid);
            rows([row![""]])
        })
    } else if is("INSERT INTO keyguard_audit") {
        write("timestamptz text text text json int8[]", "", |_, _| {
            affected(1)
        })
    } else if is("SELECT s.generation, s.forgotten") {
        let columns = "int8 int8 int8 text int8 bytea int4 timestamptz";
        read("int8", columns, feed)
    } else if is("SELECT id, lock FROM keyguard_locks ORDER") {
        read("", "bytea bytea", |tables, _| {
            rows(
                tables
                    .locks
                    .iter()
                    .map(|(id, lock)| row![id.clone(), lock.clone()]),
            )
        })
    } else if is("SELECT id, lock FROM keyguard_locks WHERE") {
        read("bytea[]", "bytea bytea", |tables, call| {
            let ids: Vec<Vec<u8>> = call.get(0);
            let found = ids
                .into_iter()
                .filter_map(|id| Some((tables.locks.get(&id)?.clone(), id)));
            rows(found.map(|(lock, id)| row![id, lock]))
        })
    } else if is("INSERT INTO keyguard_locks") {
        write(
            "bytea[] bytea[] text[] timestamptz[]",
            "",
            |tables, call| {
                let (ids, locks): (Vec<Vec<u8>>, Vec<Vec<u8>>) = (call.get(0), call.get(1));
                Rc::make_mut(&mut tables.locks).extend(ids.into_iter().zip(locks));
                affected(1)
            },
        )
    } else if is("DELETE FROM keyguard_locks") {
        write("bytea[]", "", |tables, call| {
            let ids: Vec<Vec<u8>> = call.get(0);
            Rc::make_mut(&mut tables.locks).retain(|id, _| !ids.contains(id));
            affected(ids.len())
        })
    } else if is("INSERT INTO keyguard_batches") {
        write("bytea int8", "", |tables, call| {
            let sequence: i64 = call.get(1);
            let last = tables.batches.entry(call.get(0)).or_default();
            let is_new = *last < sequence;
            *last = sequence.max(*last);
            affected(is_new.into())
        })
    } else if is("COPY usage_logs") {
        let mut copy = write("", "", |_, _| affected(0));
        copy.is_copy = true;
        copy
    } else if is("WITH used AS") {
        write("int8[] timestamptz[]", "", |_, _| affected(1))
    } else if is("INSERT INTO keyguard_totals") {
        write("int8 text[] int8[]", "", |tables, call| {
            let (names, values): (Vec<String>, Vec<i64>) = (call.get(1), call.get(2));
            add(&mut tables.totals, names, values)
        })
    } else if is("INSERT INTO keyguard_key_totals") {
        write("int8 int8[] int8[] int8[]", "", |tables, call| {
            let (keys, requests): (Vec<i64>, Vec<i64>) = (call.get(1), call.get(2));
            add(&mut tables.key_totals, keys, requests)
        })
    } else if is("INSERT INTO keyguard_key_hours") || is("INSERT INTO keyguard_key_days") {
        write("int8 timestamptz[] int8[] int8[] int8[]", "", |_, _| {
            affected(1)
        })
    } else if is("INSERT INTO keyguard_minutes") {
        write("int8 timestamptz[] text[] int8[]", "", |_, _| affected(1))
    } else if is("INSERT INTO keyguard_balances") {
        write("int8[] bytea[] int8[] int8[] int8", "", put_balances)
    } else if is("SELECT EXISTS (SELECT FROM (SELECT scheme") {
        // No simulated key is of the Python package.
        read("int8 int2 int2 timestamptz", "bool", |_, _| {
            rows([row![false]])
        })
    } else if is("SELECT pg_try_advisory_xact_lock") {
        // What has expired is not simulated.
        read("", "bool", |_, _| rows([row![false]]))
    } else {
        panic!("unknown: {sql}")
    }
}

fn read(params: &str, columns: &str, run: Run) -> Statement {
    statement(params, columns, run, false)
}

fn write(params: &str, columns: &str, run: Run) -> Statement {
    statement(params, columns, run, true)
}

fn statement(params: &str, columns: &str, run: Run, writes: bool) -> Statement {
    let types = |names: &str| names.split_whitespace().map(type_named).collect();
    Statement {
        params: types(params),
        columns: types(columns),
        run,
        writes,
        is_copy: false,
    }
}

fn type_named(name: &str) -> Type {
    match name {
        "bool" => Type::BOOL,
        "bytea" => Type::BYTEA,
        "bytea[]" => Type::BYTEA_ARRAY,
        "int2" => Type::INT2,
        "int2[]" => Type::INT2_ARRAY,
        "int4" => Type::INT4,
        "int4[]" => Type::INT4_ARRAY,
        "int8" => Type::INT8,
        "int8[]" => Type::INT8_ARRAY,
        "json" => Type::JSON,
        "jsonb" => Type::JSONB,
        "text" => Type::TEXT,
        "text[]" => Type::TEXT_ARRAY,
        "timestamptz" => Type::TIMESTAMPTZ,
        "timestamptz[]" => Type::TIMESTAMPTZ_ARRAY,
        _ => panic!("{name}"),
    }
}

fn resolve(tables: &mut Tables, call: &Call<'_>) -> Outcome {
    let hash: Vec<u8> = call.get(0);
    let credential = tables.credentials.get(&hash);
    rows(credential.map(|credential| {
        let mut row = resolved(tables, &tables.keys[&credential.key_id]);
        row.extend(row![credential.expires_at, credential.scheme]);
        row
    }))
}

fn resolved(tables: &Tables, found: &Value) -> Vec<Cell> {
    let (id, org_id) = (number(found, "id"), number(found, "org_id"));
    let mut row = key(found);
    row.extend(org(&tables.orgs[&org_id]));
    let subjects = [id, org_id | i64::MIN];
    let balances = tables.balances.iter();
    let of = balances.filter(|((subject, _), _)| subjects.contains(subject));
    let (mut ids, mut counters, mut used, mut at) = (vec![], vec![], vec![], vec![]);
    for ((subject, counter), (amount, since)) in of {
        ids.push(*subject);
        counters.push(counter.clone());
        used.push(*amount);
        at.push(*since);
    }
    let is_any = !ids.is_empty();
    row.extend(row![
        is_any.then_some(ids),
        is_any.then_some(counters),
        is_any.then_some(used),
        is_any.then_some(at),
    ]);
    row
}

fn org(org: &Value) -> Vec<Cell> {
    row![
        number(org, "id"),
        text(org, "name"),
        text(org, "status"),
        texts(org, "limits"),
        org["overrides"].clone(),
        time(org, "created_at"),
    ]
}

fn key(key: &Value) -> Vec<Cell> {
    row![
        number(key, "id"),
        number(key, "org_id"),
        text(key, "label"),
        text(key, "prefix"),
        key["active"].as_bool(),
        text(key, "scopes"),
        number(key, "rate_limit_per_minute"),
        texts(key, "limits"),
        texts(key, "allowed_ips"),
        key["overrides"].clone(),
        time(key, "created_at"),
        time(key, "expires_at"),
        time(key, "last_used_at"),
        key["suspended"].as_bool(),
    ]
}

fn number(row: &Value, name: &str) -> i64 {
    row[name].as_i64().unwrap()
}

fn text(row: &Value, name: &str) -> String {
    row[name].as_str().unwrap().to_owned()
}

fn texts(row: &Value, name: &str) -> Vec<String> {
    let texts = row[name].as_array().unwrap().iter();
    texts
        .map(|text| text.as_str().unwrap().to_owned())
        .collect()
}

fn time(row: &Value, name: &str) -> Option<OffsetDateTime> {
    let text = row[name].as_str()?;
    Some(OffsetDateTime::parse(text, &Rfc3339).unwrap())
}

/// Adds rows, or replaces the `changed` columns of existing ones.
fn put(table: &mut BTreeMap<i64, Value>, call: &Call<'_>, changed: &[&str]) -> Outcome {
    let Value::Array(new) = call.get(0) else {
        panic!("no rows");
    };
    for mut row in new {
        let id = number(&row, "id");
        match table.get_mut(&id) {
            Some(existing) => {
                for name in changed {
                    existing[*name] = row[*name].take();
                }
            }
            None => {
                table.insert(id, row);
            }
        }
    }
    affected(1)
}

fn insert_credentials(tables: &mut Tables, call: &Call<'_>) -> Outcome {
    let (hashes, keys): (Vec<Vec<u8>>, Vec<i64>) = (call.get(0), call.get(1));
    let schemes: Vec<i16> = call.get(2);
    let expire: Vec<Option<OffsetDateTime>> = call.get(5);
    let credentials = Rc::make_mut(&mut tables.credentials);
    let before = credentials.len();
    for (index, hash) in hashes.into_iter().enumerate() {
        credentials.entry(hash).or_insert(Credential {
            key_id: keys[index],
            scheme: schemes[index],
            expires_at: expire[index],
        });
    }
    affected(credentials.len() - before)
}

fn publish(tables: &mut Tables, call: &Call<'_>) -> Outcome {
    let (kinds, subjects): (Vec<String>, Vec<Option<i64>>) = (call.get(1), call.get(2));
    let locks: Vec<Option<Vec<u8>>> = call.get(3);
    for ((kind, subject), lock) in kinds.into_iter().zip(subjects).zip(locks) {
        Rc::make_mut(&mut tables.changes).push(Change {
            generation: call.get(0),
            kind,
            subject,
            lock,
        });
    }
    affected(1)
}

/// The state with the changes after a generation, or alone if there are none.
fn feed(tables: &mut Tables, call: &Call<'_>) -> Outcome {
    let after: i64 = call.get(0);
    let state = |change: Option<&Change>| {
        row![
            tables.generation,
            0_i64,
            change.map(|change| change.generation),
            change.map(|change| change.kind.clone()),
            change.and_then(|change| change.subject),
            change.and_then(|change| change.lock.clone()),
            call.pid,
            call.now(),
        ]
    };
    let later = tables
        .changes
        .iter()
        .filter(|change| change.generation > after);
    let later: Vec<_> = later.map(|change| state(Some(change))).collect();
    match later.is_empty() {
        true => rows([state(None)]),
        false => rows(later),
    }
}

fn add<K: Ord>(table: &mut BTreeMap<K, i64>, keys: Vec<K>, values: Vec<i64>) -> Outcome {
    for (key, value) in keys.into_iter().zip(values) {
        *table.entry(key).or_default() += value;
    }
    affected(1)
}

/// The later time wins, then the larger amount.
fn put_balances(tables: &mut Tables, call: &Call<'_>) -> Outcome {
    let (subjects, counters): (Vec<i64>, Vec<Vec<u8>>) = (call.get(0), call.get(1));
    let (used, at): (Vec<i64>, Vec<i64>) = (call.get(2), call.get(3));
    let latest: i64 = call.get(4);
    for (index, id) in subjects.into_iter().zip(counters).enumerate() {
        let (used, at) = (used[index], at[index]);
        let stored = tables.balances.entry(id).or_insert((used, at));
        if at == stored.1 {
            stored.0 = stored.0.max(used);
        } else if at > stored.1 || stored.1 > latest {
            *stored = (used, at);
        }
    }
    affected(1)
}
