//! The cost of a durable change.

use redb::{Database, TableDefinition};

use keyguard_benches::Fallible;

use crate::Run;
use crate::measure::{Measured, Random, median, timed_result, written_bytes};
use crate::world::{SECRET, UNREACHED, limited};

const KEYS: usize = 1_000;

/// The time of [`create_key`](keyguard::Admin::create_key), which is durable when it returns, over that of a
/// transaction that adds the same rows to a plain redb database. Both files have 1,000 keys before.
pub(crate) fn create_key(run: &Run) -> Measured {
    let mut ratios = Vec::new();
    compare(run, "commit.redb", |add_ours, add_plain| {
        let (ours, created) = timed_result(add_ours);
        created?;
        let (theirs, added) = timed_result(add_plain);
        added?;
        ratios.push(ours.as_secs_f64() / theirs.as_secs_f64());
        Ok(())
    })?;
    Ok(median(ratios))
}

/// The bytes of pages that such a change writes, over those of the plain transaction.
pub(crate) fn bytes_of_create_key(run: &Run) -> Measured {
    let (mut ours, mut theirs) = (0.0, 0.0);
    compare(run, "commit_bytes.redb", |add_ours, add_plain| {
        let start = written_bytes()?;
        add_ours()?;
        let between = written_bytes()?;
        add_plain()?;
        ours += between - start;
        theirs += written_bytes()? - between;
        Ok(())
    })?;
    Ok(ours / theirs)
}

type Work<'a> = &'a mut dyn FnMut() -> Fallible<()>;

/// Calls `round` with both changes, repeatedly.
fn compare(
    run: &Run,
    name: &str,
    mut round: impl FnMut(Work<'_>, Work<'_>) -> Fallible<()>,
) -> Fallible<()> {
    let config = keyguard::Config::new(SECRET);
    let (kg, _) = run.world.guard(name, KEYS, UNREACHED, config)?;
    let mut plain = Plain::create(run, name)?;
    for _ in 0..run.rounds(301) {
        let mut ours = || {
            kg.admin().create_key(limited("org 0", UNREACHED))?;
            Ok(())
        };
        let mut theirs = || Ok(plain.add_key()?);
        round(&mut ours, &mut theirs)?;
    }
    Ok(())
}

/// A plain database with the tables of keys.
struct Plain {
    database: Database,
    last: u64,
    random: Random,
}

const COUNTS: TableDefinition<&str, &[u8]> = TableDefinition::new("counts");
const BY_ID: TableDefinition<u64, &[u8]> = TableDefinition::new("keys");
const BY_ORG: TableDefinition<(u64, u64), ()> = TableDefinition::new("org keys");
const BY_PREFIX: TableDefinition<(&str, u64), ()> = TableDefinition::new("key prefixes");
const CREDENTIALS: TableDefinition<&[u8; 32], &[u8]> = TableDefinition::new("credentials");
const OF_KEY: TableDefinition<(u64, &[u8; 32]), ()> = TableDefinition::new("key credentials");
const AUDIT: TableDefinition<u64, &[u8]> = TableDefinition::new("audit");

impl Plain {
    fn create(run: &Run, name: &str) -> Result<Self, redb::Error> {
        let path = run.world.path(&format!("plain_{name}"));
        let mut plain = Self {
            database: Database::create(path)?,
            last: 0,
            random: Random(3),
        };
        for _ in 0..KEYS {
            plain.add_key()?;
        }
        Ok(plain)
    }

    /// Adds the rows of a key, as long as those of KeyGuard.
    fn add_key(&mut self) -> Result<(), redb::Error> {
        self.last += 1;
        let id = self.last;
        let hash: [u8; 32] = std::array::from_fn(|_| self.random.below(256) as u8);
        let prefix = format!("kg_live_{:04x}", self.random.below(1 << 16));
        let mut txn = self.database.begin_write()?;
        // Like KeyGuard's, this file opens in constant time after a kill. redb's default takes half the
        // time for a commit, and reads the whole file after a kill.
        txn.set_quick_repair(true);
        let mut counts = txn.open_table(COUNTS)?;
        counts.insert("records", &[0; 10][..])?;
        counts.insert("commits", &id.to_le_bytes()[..])?;
        txn.open_table(BY_ID)?.insert(id, &[0; 41][..])?;
        txn.open_table(BY_ORG)?.insert((1, id), ())?;
        txn.open_table(BY_PREFIX)?.insert((&*prefix, id), ())?;
        txn.open_table(CREDENTIALS)?.insert(&hash, &[0; 12][..])?;
        txn.open_table(OF_KEY)?.insert((id, &hash), ())?;
        txn.open_table(AUDIT)?.insert(id, &[0; 175][..])?;
        drop(counts);
        txn.commit()?;
        Ok(())
    }
}
