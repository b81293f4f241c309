//! The queries, and the columns of their answers.

/// A column of an answer: the OID of its type, a value, and whether it is never null.
pub(super) type Column = (u32, &'static [u8], bool);

const NUMBER: Column = (20, &[0, 0, 0, 0, 0, 0, 0, 1], true);
const NUMBERS: Column = (1016, &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 20], true);
const SMALL: Column = (21, &[0, 1], true);
const INTEGER: Column = (23, &[0, 0, 0, 200], true);
const FLOAT: Column = (701, &[0x40, 0, 0, 0, 0, 0, 0, 0], true);
const YES: Column = (16, &[1], true);
const NAME: Column = (25, b"acme", true);
const STATUS: Column = (25, b"active", true);
const ADDRESS: Column = (25, b"192.0.2.7", true);
const TEXTS: Column = (1009, &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 25], true);
const BYTES: Column = (17, &[7; 32], true);
const ALL_BYTES: Column = (1001, &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 17], true);
const LIST: Column = (3802, b"\x01[]", true);
const DETAILS: Column = (114, b"{}", true);
const TIME: Column = (1184, &[0, 2, 0, 0, 0, 0, 0, 0], true);
const LOCK_ID: Column = (
    17,
    &[128, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 192, 0, 2, 7, 0],
    true,
);
const LOCK: Column = (17, &[1, 1, 0, 1, 2, 1, 3], true);
const BALANCE_ID: Column = (17, &[1, 0, 0, 0], true);

const fn nullable(column: Column) -> Column {
    (column.0, column.1, false)
}

pub(super) struct Query {
    /// A part of its text that no earlier query of the list contains.
    pub(super) text: &'static str,
    /// The OIDs of its parameters.
    pub(super) params: &'static [u32],
    pub(super) columns: &'static [Column],
}

pub(super) static QUERIES: [Query; 10] = [
    Query {
        text: "FROM keyguard_credentials c",
        params: &[17],
        columns: &[
            NUMBER,
            NUMBER,
            NAME,
            NAME,
            YES,
            NAME,
            NUMBER,
            TEXTS,
            TEXTS,
            LIST,
            TIME,
            nullable(TIME),
            nullable(TIME),
            YES,
            NUMBER,
            NAME,
            STATUS,
            TEXTS,
            LIST,
            TIME,
            nullable(NUMBERS),
            nullable(ALL_BYTES),
            nullable(NUMBERS),
            nullable(NUMBERS),
            nullable(TIME),
            SMALL,
        ],
    },
    Query {
        text: "FROM keyguard_credentials WHERE key_id",
        params: &[1016],
        columns: &[BYTES, SMALL, INTEGER, NUMBER, TIME, nullable(TIME)],
    },
    Query {
        text: "FROM keyguard_locks ORDER BY id",
        params: &[],
        columns: &[LOCK_ID, LOCK],
    },
    Query {
        text: "FROM keyguard_state s",
        params: &[20],
        columns: &[
            NUMBER,
            NUMBER,
            nullable(NUMBER),
            nullable((25, b"key", true)),
            nullable(NUMBER),
            nullable(LOCK_ID),
            INTEGER,
            TIME,
        ],
    },
    Query {
        text: "FROM usage_logs",
        params: &[1184, 20],
        columns: &[
            TIME,
            NUMBER,
            NAME,
            NAME,
            ADDRESS,
            INTEGER,
            FLOAT,
            nullable(SMALL),
        ],
    },
    Query {
        text: "FROM keyguard_balances",
        params: &[20],
        columns: &[BALANCE_ID, NUMBER, NUMBER],
    },
    Query {
        text: "FROM keyguard_audit",
        params: &[20, 20],
        columns: &[NUMBER, TIME, NAME, ADDRESS, NAME, nullable(NUMBER), DETAILS],
    },
    Query {
        text: "FROM organizations o",
        params: &[20, 20],
        columns: &[NUMBER, NAME, STATUS, TEXTS, LIST, TIME],
    },
    Query {
        text: "FROM keyguard_totals",
        params: &[],
        columns: &[NAME, NUMBER],
    },
    Query {
        text: "FROM keyguard_locks WHERE id",
        params: &[1001],
        columns: &[LOCK_ID, LOCK],
    },
];
