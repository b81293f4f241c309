//! The layout of a data file: pages of 4 KiB, aligned, so that an interrupted or garbled write of one
//! damages no other.
//!
//! | page | holds |
//! |---|---|
//! | 0 | the [preamble](preamble()), which never changes |
//! | 1, 2 | the [header](Header), twice |
//! | 3, 4 | the header before or after that one, twice |
//! | 5, 6 | the [checksums](ChecksumTable) of group 0: the current ones, and those before or after |
//! | 7 … 1,027 | the blocks of group 0 |
//! | 1,028 … | group 1, and so on |
//!
//! A block is a page of the database. The first one contains only the database's header, which is a part of
//! the header of the file; the others are in groups of 1,021.
//!
//! The database never overwrites a block that its header on disk refers to, and neither are the header and
//! the checksums on disk: a new header goes to the other pair of pages, and new checksums go to the other
//! page of their group. A header is written after everything that it refers to is on disk. It contains the
//! length of the file and a checksum of the checksums, and therefore identifies every byte in use.
//!
//! If the current checksums of one group are damaged, they are computed again from the blocks, and the checksum
//! in the header confirms them.
//!
//! A header fits in the first 512 bytes of its page, which disks write whole or not at all. An interrupted
//! write of a header leaves a valid copy of it or of the one that it replaces.

mod checksums;
mod header;
mod layout;
mod preamble;

pub(crate) use self::checksums::ChecksumTable;
pub(crate) use self::header::{DATABASE_HEADER, Header, SECTOR};
pub(crate) use self::layout::{
    BLOCK, FRONT, HEADERS, file_len, group_blocks, group_of, groups, runs, table_offset,
};
pub(crate) use self::preamble::{PREAMBLE, Unreadable, preamble, read_preamble};
