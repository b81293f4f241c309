//! Reads all rows of a data file, and names what is lost.

use std::collections::BTreeSet;

use redb::{
    Key, ReadTransaction, ReadableTable, ReadableTableMetadata, TableDefinition, TableHandle, Value,
};

use super::engine::Snapshot;
use super::repair;
use super::tables::{
    self, CREDENTIALS, KEY_CREDENTIALS, KEYS, ORG_KEYS, ORG_NAMES, ORGS, TableVisitor,
    USAGE_BLOCKS, USAGE_OPEN, USAGE_TIMES,
};
use super::usage::{BlockNumber, NEXT_NUMBER};
use crate::store::{Damage, StoreError, Verification};
use crate::time::Timestamp;

/// The cache of a database that is verified. Most pages are read once.
pub(super) const CACHE: usize = 16 << 20;
/// The most rows that are named one by one. Each lost row costs one opening of the database.
const MOST_NAMED: usize = 100;
/// The problem of a table that a new one has replaced.
const SET_ASIDE: &str = "a block was altered, and its table was set aside";

/// Reads all rows of the database that `open` opens. redb does no more work after a damaged block, so it is
/// then opened again.
pub(super) fn verify(
    open: impl Fn() -> Result<Snapshot, StoreError>,
) -> Result<Verification, StoreError> {
    let mut file = Verifier {
        open,
        snapshot: None,
        set_aside: Vec::new(),
        found: Verification::default(),
    };
    file.find_tables_set_aside()?;
    tables::visit_all(&mut file)?;
    file.note_blocks_set_aside();
    Ok(file.found)
}

/// Like [`verify`], for a database that does not change. Of a sound one also reads the pages that contain no rows.
pub(super) fn verify_at_rest(
    open: impl Fn() -> Result<Snapshot, StoreError>,
) -> Result<Verification, StoreError> {
    let found = verify(&open)?;
    match found.is_sound() {
        true => verify_other_pages(open()?, found),
        false => Ok(found),
    }
}

fn verify_other_pages(
    mut snapshot: Snapshot,
    mut found: Verification,
) -> Result<Verification, StoreError> {
    match snapshot.database.check_integrity() {
        Err(StoreError::Damaged(problem)) => found.damage.push(of_free_space(problem)),
        checked => checked?,
    }
    Ok(found)
}

/// The damage of a file of which all rows can be read.
pub(super) fn of_free_space(problem: String) -> Damage {
    Damage {
        table: Damage::FREE_SPACE.into(),
        rows: Some(0),
        lost: "no rows, but changes may be refused; stop the process that holds the file, and run `keyguard compact`"
            .into(),
        problem,
    }
}

struct Verifier<F> {
    open: F,
    /// `None` after damage.
    snapshot: Option<Snapshot>,
    /// The names of the tables that were set aside.
    set_aside: Vec<String>,
    found: Verification,
}

/// The rows of a table from one end up to the first that cannot be read.
#[derive(Default)]
struct ReadRows {
    rows: u64,
    /// The number of rows of the whole table.
    of: Option<u64>,
    last: Option<String>,
    problem: Option<String>,
}

impl<F: Fn() -> Result<Snapshot, StoreError>> TableVisitor for Verifier<F> {
    type Error = StoreError;

    /// Reads a table, and notes what cannot be read.
    fn visit<K: Key + 'static, V: Value + 'static>(
        &mut self,
        table: TableDefinition<'static, K, V>,
        show: impl Fn(K::SelfType<'_>) -> Option<String>,
    ) -> Result<(), StoreError> {
        let name = table.name();
        if tables::is_replaceable(name) {
            self.note_totals_set_aside(table, &show)?;
        }
        if name == USAGE_BLOCKS.name() && self.check_blocks()? {
            return Ok(());
        }
        match self.read(table, &show)? {
            None => Ok(()),
            Some(damage) if name == ORGS.name() => self.note_orgs(damage),
            Some(damage) if name == KEYS.name() => self.note_keys(damage),
            Some(damage) if name == CREDENTIALS.name() => self.note_credentials(damage),
            Some(damage) if name == USAGE_OPEN.name() => {
                self.note_growing_block(damage);
                Ok(())
            }
            Some(damage) => {
                self.found.damage.push(damage);
                Ok(())
            }
        }
    }
}

impl<F: Fn() -> Result<Snapshot, StoreError>> Verifier<F> {
    fn note_orgs(&mut self, damage: Damage) -> Result<(), StoreError> {
        let ids = self.rows(ORG_NAMES, |_, id| (id, id))?;
        self.note_named(damage, "organizations", ids, |txn, id| {
            txn.open_table(ORGS)?.get(id)?;
            Ok(())
        })
    }

    fn note_keys(&mut self, damage: Damage) -> Result<(), StoreError> {
        let ids = self.rows(ORG_KEYS, |(_, id), ()| (id, id))?;
        self.note_named(damage, "keys", ids, |txn, id| {
            txn.open_table(KEYS)?.get(id)?;
            Ok(())
        })
    }

    fn note_credentials(&mut self, damage: Damage) -> Result<(), StoreError> {
        let hashes = self.rows(KEY_CREDENTIALS, |(key, hash), ()| (key, *hash))?;
        self.note_named(damage, "texts of keys", hashes, |txn, hash| {
            txn.open_table(CREDENTIALS)?.get(hash)?;
            Ok(())
        })
    }

    fn note_growing_block(&mut self, damage: Damage) {
        self.found.damage.push(Damage {
            lost: "the latest requests".into(),
            rows: None,
            ..damage
        });
    }

    /// Reads each full block of requests by itself. Returns whether the blocks are known.
    fn check_blocks(&mut self) -> Result<bool, StoreError> {
        let Some(blocks) = self.rows(USAGE_TIMES, |number, times| (number, times))? else {
            return Ok(false);
        };
        for (number, (first, last)) in blocks {
            let time = Timestamp::from_unix_millis;
            let requests = || format!("requests from {} to {}", time(first), time(last));
            self.check_block(number, requests)?;
        }
        self.check_block(NEXT_NUMBER, || "the number of the next block".into())?;
        Ok(true)
    }

    fn check_block(
        &mut self,
        number: BlockNumber,
        lost: impl Fn() -> String,
    ) -> Result<(), StoreError> {
        let block = self.read_all(|txn, read| {
            read.rows += u64::from(txn.open_table(USAGE_BLOCKS)?.get(number)?.is_some());
            Ok(())
        })?;
        self.found.rows += block.rows;
        self.found
            .damage
            .extend(block.problem.map(|problem| Damage {
                table: USAGE_BLOCKS.name().to_owned(),
                rows: Some(1),
                lost: lost(),
                problem,
            }));
        Ok(())
    }

    fn find_tables_set_aside(&mut self) -> Result<(), StoreError> {
        let mut names = Vec::new();
        self.read_all(|txn, _| {
            names = repair::names_set_aside(txn)?;
            Ok(())
        })?;
        self.set_aside = names;
        Ok(())
    }

    fn note_blocks_set_aside(&mut self) {
        let names = std::mem::take(&mut self.set_aside).into_iter();
        self.found.damage.extend(names.map(|table| Damage {
            lost: match table.ends_with(USAGE_OPEN.name()) {
                true => "requests that were the latest when the damage was met".into(),
                false => "requests in blocks that could not be read".into(),
            },
            table,
            rows: None,
            problem: SET_ASIDE.into(),
        }));
    }

    /// Notes the rows that the table in the place of a damaged one lacks.
    fn note_totals_set_aside<K: Key + 'static, V: Value + 'static>(
        &mut self,
        table: TableDefinition<'static, K, V>,
        show: &impl Fn(K::SelfType<'_>) -> Option<String>,
    ) -> Result<(), StoreError> {
        let names = std::mem::take(&mut self.set_aside).into_iter();
        let is_of_table = |name: &String| repair::original_name(name) == Some(table.name());
        let (of_table, others) = names.partition(is_of_table);
        self.set_aside = others;
        let rows = self.found.rows;
        for name in of_table {
            let damage = self.read(TableDefinition::<K, V>::new(&name), show)?;
            self.found.damage.push(match damage {
                Some(damage) => Damage {
                    problem: format!("{}, and its table was set aside", damage.problem),
                    ..damage
                },
                None => Damage {
                    table: name,
                    rows: None,
                    lost: "rows that could not be read earlier".into(),
                    problem: "its table was set aside, and can be read now".into(),
                },
            });
        }
        self.found.rows = rows;
        Ok(())
    }

    /// Reads a table, from both ends if it is damaged. Returns the part that cannot be read.
    fn read<K: Key + 'static, V: Value + 'static>(
        &mut self,
        table: TableDefinition<'_, K, V>,
        show: &impl Fn(K::SelfType<'_>) -> Option<String>,
    ) -> Result<Option<Damage>, StoreError> {
        let start = self.read_from(table, false, show)?;
        let Some(problem) = start.problem else {
            self.found.rows += start.rows;
            return Ok(None);
        };
        let end = self.read_from(table, true, show)?;
        self.found.rows += end.rows;
        if end.problem.is_none() {
            // The block can be read again.
            return Ok(None);
        }
        self.found.rows += start.rows;
        let after = start.last.map(|key| format!("after {key}"));
        let before = end.last.map(|key| format!("before {key}"));
        let bounds: Vec<String> = after.into_iter().chain(before).collect();
        let rows = start.of.or(end.of);
        Ok(Some(Damage {
            table: table.name().to_owned(),
            rows: rows.map(|rows| rows.saturating_sub(start.rows + end.rows)),
            lost: format!("rows {}", bounds.join(" and "))
                .trim_end()
                .to_owned(),
            problem,
        }))
    }

    fn read_from<K: Key + 'static, V: Value + 'static>(
        &mut self,
        table: TableDefinition<'_, K, V>,
        backwards: bool,
        show: &impl Fn(K::SelfType<'_>) -> Option<String>,
    ) -> Result<ReadRows, StoreError> {
        self.read_all(|txn, read| {
            let table = txn.open_table(table)?;
            read.of = Some(table.len()?);
            let mut rows = table.iter()?;
            while let Some(row) = match backwards {
                true => rows.next_back(),
                false => rows.next(),
            } {
                read.last = show(row?.0.value());
                read.rows += 1;
            }
            Ok(())
        })
    }

    /// Returns all rows of a table, or `None` if it is damaged.
    fn rows<K: Key + 'static, V: Value + 'static, T>(
        &mut self,
        table: TableDefinition<'static, K, V>,
        row_of: impl Fn(K::SelfType<'_>, V::SelfType<'_>) -> T,
    ) -> Result<Option<Vec<T>>, StoreError> {
        let mut all = Vec::new();
        let read = self.read_all(|txn, _| {
            for row in txn.open_table(table)?.iter()? {
                let (key, value) = row?;
                all.push(row_of(key.value(), value.value()));
            }
            Ok(())
        })?;
        Ok(read.problem.is_none().then_some(all))
    }

    /// Notes damage with the ids of the lost rows, which an undamaged table lists together with the keys of
    /// these rows.
    fn note_named<K>(
        &mut self,
        damage: Damage,
        kind: &str,
        listed: Option<Vec<(u64, K)>>,
        get: impl Fn(&ReadTransaction, &K) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let mut rest = listed.as_deref().unwrap_or_default();
        let (mut ids, mut rows) = (BTreeSet::new(), 0);
        while rows < MOST_NAMED {
            let read = self.read_all(|txn, read| {
                for (_, key) in rest {
                    get(txn, key)?;
                    read.rows += 1;
                }
                Ok(())
            })?;
            let readable = usize::try_from(read.rows).unwrap_or(usize::MAX);
            let Some((id, _)) = rest.get(readable) else {
                break;
            };
            ids.insert(*id);
            rows += 1;
            rest = &rest[readable + 1..];
        }
        let named = format!("{kind} {}", spans(&ids));
        self.found.damage.push(match rows {
            0 => damage,
            MOST_NAMED => Damage {
                lost: format!("{named} and more"),
                ..damage
            },
            rows => Damage {
                lost: named,
                rows: Some(rows as u64),
                ..damage
            },
        });
        Ok(())
    }

    /// Reads until damage.
    fn read_all(
        &mut self,
        read: impl FnOnce(&ReadTransaction, &mut ReadRows) -> Result<(), StoreError>,
    ) -> Result<ReadRows, StoreError> {
        let snapshot = match self.snapshot.take() {
            Some(snapshot) => snapshot,
            None => (self.open)()?,
        };
        let mut rows = ReadRows::default();
        match snapshot.database.read(|txn| read(txn, &mut rows)) {
            Ok(()) => self.snapshot = Some(snapshot),
            Err(StoreError::Damaged(problem)) if snapshot.is_pinned() => {
                rows.problem = Some(problem);
            }
            Err(StoreError::Damaged(_)) => return Err(snapshot_lost()),
            Err(error) => return Err(error),
        }
        Ok(rows)
    }
}

/// The error when pages that were read may have been overwritten.
pub(super) fn snapshot_lost() -> StoreError {
    StoreError::Unavailable("the database was reopened meanwhile, after an error; try again".into())
}

/// Shows ids, such as `3, 7 to 9`.
fn spans(ids: &BTreeSet<u64>) -> String {
    let mut spans: Vec<(u64, u64)> = Vec::new();
    for &id in ids {
        match spans.last_mut() {
            Some((_, last)) if *last + 1 == id => *last = id,
            _ => spans.push((id, id)),
        }
    }
    let shown = spans.into_iter().map(|(first, last)| match first == last {
        true => first.to_string(),
        false => format!("{first} to {last}"),
    });
    shown.collect::<Vec<_>>().join(", ")
}
