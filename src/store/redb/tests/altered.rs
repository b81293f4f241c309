//! Files with altered bytes, by a failing disk or by another program.

use std::sync::LazyLock;

use super::*;
use crate::store::codec::data_file::BLOCK;

/// An alteration of some bytes of a file.
#[derive(Clone, Debug)]
enum Alteration {
    Byte(usize, u8),
    Zeros(usize, usize),
    RandomPage(usize, u64),
}

impl Alteration {
    fn apply(&self, bytes: &mut [u8]) {
        let len = bytes.len();
        match *self {
            Self::Byte(at, byte) => bytes[at % len] ^= byte,
            Self::Zeros(at, run) => {
                let at = at % len;
                bytes[at..len.min(at + run)].fill(0);
            }
            Self::RandomPage(page, seed) => {
                let at = page * BLOCK % len;
                let end = len.min(at + BLOCK);
                let mut random = blake3::Hasher::new()
                    .update(&seed.to_le_bytes())
                    .finalize_xof();
                random.fill(&mut bytes[at..end]);
            }
        }
    }
}

fn alterations() -> impl Strategy<Value = Vec<Alteration>> {
    // The header and the start of each page matter most to redb.
    let offset = || {
        prop_oneof![
            2 => 0..320_usize,
            2 => 0..65_536_usize,
            4 => (0..256_usize, 0..64_usize).prop_map(|(page, at)| page * BLOCK + at),
            2 => any::<usize>(),
        ]
    };
    let alteration = prop_oneof![
        6 => (offset(), 1..=u8::MAX).prop_map(|(at, byte)| Alteration::Byte(at, byte)),
        1 => (offset(), 1..5_000_usize).prop_map(|(at, run)| Alteration::Zeros(at, run)),
        1 => (0..256_usize, any::<u64>()).prop_map(|(page, seed)| Alteration::RandomPage(page, seed)),
    ];
    prop::collection::vec(alteration, 1..=8)
}

/// An unaltered file and its outcomes.
struct Original {
    bytes: Vec<u8>,
    outcomes: Vec<Outcome>,
}

/// A file with all kinds of data, closed and as a kill leaves it.
fn originals() -> [Original; 2] {
    let file = File::new();
    let store = with_keys(&file, 40);
    let other = store.add_org("other");
    let keys = (41..=60).map(|n| new_key(other.id, n)).collect();
    store.create_keys(keys, &audit_context()).unwrap();
    for minute in 0..20 {
        let events = (1..=60).map(|key| (event(key, after(minute)), "/api/data"));
        store.record(&batch(events)).unwrap();
    }
    store.revoke(KeyId(7));
    let killed = fs::read(&file.path).unwrap();
    drop(store);
    let closed = fs::read(&file.path).unwrap();
    [closed, killed].map(|bytes| {
        fs::write(&file.path, &bytes).unwrap();
        let outcomes = outcomes(&file.open());
        Original { bytes, outcomes }
    })
}

/// A result of a store as text.
pub(super) type Outcome = Result<String, String>;

pub(super) fn described<T: std::fmt::Debug>(outcome: Result<T, StoreError>) -> Outcome {
    outcome
        .map(|outcome| format!("{outcome:?}"))
        .map_err(|error| format!("{error:?}"))
}

/// A listing of requests that omits damaged blocks is damage, of which a warning tells; and so is a count of a table
/// that was set aside.
pub(super) fn outcomes(store: &RedbStore) -> Vec<Outcome> {
    let usage = described(store.usage(None, NOW, 10_000));
    let warnings = store.warnings().join("; ");
    let unless_warned = |of: &str, outcome: Outcome| match warnings.contains(of) {
        true => Err(format!("Damaged: {warnings}")),
        false => outcome,
    };
    let totals = |part: &dyn Fn(Totals) -> Totals| described(store.totals(after(20)).map(part));
    let keys = |org| described(store.keys(org, None, 100));
    let mut outcomes = vec![
        totals(&|all| Totals {
            last_hour: Count::default(),
            shadow_denied: Vec::new(),
            top_keys: Vec::new(),
            ..all
        }),
        unless_warned(
            "damaged 1 minutes",
            totals(&|all| Totals {
                last_hour: all.last_hour,
                ..Totals::default()
            }),
        ),
        unless_warned(
            "damaged 1 shadow denied",
            totals(&|all| Totals {
                shadow_denied: all.shadow_denied,
                ..Totals::default()
            }),
        ),
        unless_warned(
            "damaged 1 activity",
            totals(&|all| Totals {
                top_keys: all.top_keys,
                ..Totals::default()
            }),
        ),
        described(store.orgs(None, 100)),
        unless_warned("damaged 1 activity", keys(None)),
        unless_warned("damaged 1 activity", keys(Some(OrgId(2)))),
        unless_warned("blocks of usage that could not be read", usage),
    ];
    for key in [1, 7, 30, 60, 61] {
        outcomes.push(described(resolve(reopened(store), key)));
        let id = KeyId(key);
        outcomes.push(described(reopened(store).resolve_id(id)));
        let counters = reopened(store).counters(SubjectId::key(id));
        outcomes.push(described(counters));
    }
    outcomes
}

/// Waits until the file is reopened after a look-up that met damage. Otherwise the next one is refused.
fn reopened(store: &RedbStore) -> &RedbStore {
    while store.engine.is_reopening() {
        std::thread::yield_now();
    }
    store
}

/// All kinds of changes that a guard makes.
fn change_all(store: &RedbStore) -> Vec<Outcome> {
    vec![
        described(store.record(&requests(5, after(30), 50))),
        described(store.create_org("new", &audit_context())),
        described(store.create_keys(vec![new_key(OrgId(1), 99)], &audit_context())),
        described(store.update_org(OrgId(2), suspended(), &audit_context())),
        described(store.revoke_key(KeyId(2), &audit_context())),
        described(store.prune(after(25), after(200_000))),
        described(store.record(&requests(5, after(40), 50))),
    ]
}

static ORIGINALS: LazyLock<[Original; 2]> = LazyLock::new(originals);

proptest! {
    /// redb once panicked on such files, on some of them again while unwinding, which aborts the
    /// process.
    #[test]
    fn an_altered_file_never_panics(
        killed in any::<bool>(),
        alterations in alterations(),
        changes_first in any::<bool>(),
    ) {
        let original = &ORIGINALS[usize::from(killed)];
        let mut bytes = original.bytes.clone();
        alterations.iter().for_each(|alteration| alteration.apply(&mut bytes));
        let file = File::new();
        fs::write(&file.path, &bytes).unwrap();

        match open(&file.path) {
            Ok(store) => {
                let mut all = Vec::new();
                if !changes_first {
                    all = outcomes(&store);
                    for (outcome, sound) in all.iter().zip(&original.outcomes) {
                        prop_assert!(outcome.is_err() || outcome == sound, "{outcome:?}");
                    }
                }
                all.extend(change_all(&store));
                for error in all.into_iter().filter_map(Result::err) {
                    prop_assert!(!error.contains(PANICKED), "a panic was caught");
                }
            }
            Err(refused) => {
                prop_assert!(!format!("{refused:?}").contains(PANICKED), "a panic was caught");
                prop_assert!(fs::read(&file.path).unwrap() == bytes, "the file was changed");
            }
        }
    }
}
