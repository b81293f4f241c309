use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use super::*;
use crate::store::codec::data_file::{group_blocks, table_offset};
use proptest::prelude::*;
use redb::backends::InMemoryBackend;

fn bytes(file: &dyn StorageBackend) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(file.len().unwrap()).unwrap()];
    file.read(0, &mut bytes).unwrap();
    bytes
}

fn reopened(bytes: &[u8]) -> BlockFile {
    let file = InMemoryBackend::new();
    file.set_len(bytes.len() as u64).unwrap();
    file.write(0, bytes).unwrap();
    BlockFile::existing(file)
}

fn header(file: &BlockFile) -> io::Result<[u8; DATABASE_HEADER]> {
    let mut header = [0; DATABASE_HEADER];
    file.read(0, &mut header).map(|()| header)
}

fn block(file: &BlockFile, index: u64) -> io::Result<[u8; BLOCK]> {
    let mut block = [0; BLOCK];
    file.read(index * BLOCK as u64, &mut block).map(|()| block)
}

/// Makes a change of the header durable.
fn commit(file: &BlockFile, n: u8) {
    file.write(0, &[n; DATABASE_HEADER]).unwrap();
    file.sync_data().unwrap();
}

fn problem<T: std::fmt::Debug>(result: io::Result<T>) -> String {
    let error = result.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
    error.to_string()
}

/// Four blocks, of which the last three are 1, 2 and 3 throughout, and header 1.
fn filled() -> BlockFile {
    let file = BlockFile::new(InMemoryBackend::new()).unwrap();
    assert_eq!(file.len().unwrap(), 0);
    file.set_len(4 * BLOCK as u64).unwrap();
    let data = [[1; BLOCK], [2; BLOCK], [3; BLOCK]].concat();
    file.write(BLOCK as u64, &data).unwrap();
    commit(&file, 1);
    file
}

#[test]
fn blocks_and_the_last_header_read_back() {
    let filled = filled();
    commit(&filled, 2);
    for file in [reopened(&bytes(&*filled.file)), filled] {
        assert_eq!(file.len().unwrap(), 4 * BLOCK as u64);
        assert_eq!(header(&file).unwrap(), [2; DATABASE_HEADER]);
        let mut two = [0; 2 * BLOCK];
        file.read(2 * BLOCK as u64, &mut two).unwrap();
        assert_eq!(two[..BLOCK], [2; BLOCK]);
        assert_eq!(two[BLOCK..], [3; BLOCK]);
    }
}

#[test]
fn a_range_of_blocks_may_span_groups_and_a_file_may_shrink_and_grow() {
    let file = filled();
    let first = group_blocks(1).start;
    file.set_len((first + 10) * BLOCK as u64).unwrap();
    let data: Vec<u8> = (0..4).flat_map(|n| [n + 10; BLOCK]).collect();
    file.write((first - 2) * BLOCK as u64, &data).unwrap();
    commit(&file, 2);
    let reopen = |file: &BlockFile| reopened(&bytes(&*file.file));
    let mut found = vec![0; data.len()];
    reopen(&file)
        .read((first - 2) * BLOCK as u64, &mut found)
        .unwrap();
    assert!(found == data);

    // The end is kept until no header refers to it.
    let long = file.file.len().unwrap();
    file.set_len(4 * BLOCK as u64).unwrap();
    assert_eq!(file.file.len().unwrap(), long);
    assert_eq!(reopen(&file).len().unwrap(), (first + 10) * BLOCK as u64);
    commit(&file, 3);
    assert_eq!(file.file.len().unwrap(), file_len(4));
    assert_eq!(reopen(&file).len().unwrap(), 4 * BLOCK as u64);

    file.set_len((first + 10) * BLOCK as u64).unwrap();
    commit(&file, 4);
    assert_eq!(block(&reopen(&file), 3).unwrap(), [3; BLOCK]);
    let again = block(&reopen(&file), first).unwrap();
    assert_eq!(again, [0; BLOCK], "never written since");
}

#[test]
fn rolling_back_restores_the_last_synced_header_and_its_checksums() {
    let file = filled();
    let older = bytes(&*file.file);
    file.write(3 * BLOCK as u64, &[4; BLOCK]).unwrap();
    commit(&file, 2);
    // Written, but not referred to by a header: block 2 is not in use.
    file.write(2 * BLOCK as u64, &[9; BLOCK]).unwrap();
    file.sync_data().unwrap();
    file.write(0, &[3; DATABASE_HEADER]).unwrap();
    file.roll_back().unwrap();
    for file in [&reopened(&bytes(&*file.file)), &file] {
        assert_eq!(header(file).unwrap(), [2; DATABASE_HEADER]);
        assert_eq!(block(file, 3).unwrap(), [4; BLOCK]);
        problem(block(file, 2));
    }
    file.settle().unwrap();
    commit(&file, 5);
    let found = reopened(&bytes(&*file.file));
    assert_eq!(header(&found).unwrap(), [5; DATABASE_HEADER]);
    assert_eq!(block(&found, 3).unwrap(), [4; BLOCK]);

    file.file.write(0, &older).unwrap();
    assert!(problem(file.roll_back()).contains("another program"));
}

#[test]
fn settling_replaces_a_later_header() {
    let file = filled();
    let before = bytes(&*file.file);
    commit(&file, 2);
    // As after a failed sync: the header was written, and the file counts as having the one before.
    let later = file.file;
    let file = BlockFile::existing(InMemoryBackend::new());
    file.file.set_len(before.len() as u64).unwrap();
    file.file.write(0, &before).unwrap();
    assert_eq!(header(&file).unwrap(), [1; DATABASE_HEADER]);
    file.file.write(0, &bytes(&*later)).unwrap();
    file.settle().unwrap();
    assert_eq!(
        header(&reopened(&bytes(&*file.file))).unwrap(),
        [1; DATABASE_HEADER]
    );
}

#[test]
fn a_block_of_another_place_or_time_or_of_zeros_is_an_error() {
    let file = filled();
    let at = |index| usize::try_from(runs(index, 1).next().unwrap().offset).unwrap();
    let sound = bytes(&*file.file);
    for other in [sound[at(1)..at(2)].to_vec(), vec![0; BLOCK]] {
        let mut bytes = sound.clone();
        bytes[at(2)..at(3)].copy_from_slice(&other);
        let file = reopened(&bytes);
        assert_eq!(block(&file, 1).unwrap(), [1; BLOCK]);
        assert_eq!(problem(block(&file, 2)), "block 2 was altered");
        assert_eq!(block(&file, 3).unwrap(), [3; BLOCK]);
    }

    file.write(2 * BLOCK as u64, &[5; BLOCK]).unwrap();
    commit(&file, 2);
    let mut lost = bytes(&*file.file);
    lost[at(2)..at(3)].copy_from_slice(&sound[at(2)..at(3)]);
    problem(block(&reopened(&lost), 2));
}

#[test]
fn checksums_that_are_older_than_the_header_are_an_error() {
    let file = filled();
    file.write(2 * BLOCK as u64, &[4; BLOCK]).unwrap();
    commit(&file, 9);
    let before = bytes(&*file.file);
    file.write(2 * BLOCK as u64, &[5; BLOCK]).unwrap();
    commit(&file, 2);
    let after = bytes(&*file.file);
    for slot in [0, 1] {
        let at = usize::try_from(table_offset(0, slot)).unwrap();
        let mut lost = after.clone();
        lost[at..at + BLOCK].copy_from_slice(&before[at..at + BLOCK]);
        let found = header(&reopened(&lost));
        match lost == after {
            true => assert!(found.is_ok()),
            false => assert!(problem(found).contains("checksums of some blocks")),
        }
    }
}

/// The offset of the page with the checksums of a group.
fn table_at(file: &BlockFile, group: usize) -> usize {
    let slot = file.with_state(|state| state.tables.slot(group)).unwrap();
    usize::try_from(table_offset(group, slot)).unwrap()
}

/// Two groups with both checksum tables each. Their first blocks are 0 and 4.
fn two_groups() -> BlockFile {
    let file = BlockFile::new(InMemoryBackend::new()).unwrap();
    let end = group_blocks(1).start + 2;
    file.set_len(end * BLOCK as u64).unwrap();
    for n in 0..3 {
        file.write(BLOCK as u64, &[1 - n / 2; BLOCK]).unwrap();
        file.write(
            (end - 2) * BLOCK as u64,
            &[[2 + n; BLOCK], [3; BLOCK]].concat(),
        )
        .unwrap();
        commit(&file, n);
    }
    file
}

#[test]
fn damaged_checksums_of_one_group_are_rebuilt_from_its_blocks() {
    let file = two_groups();
    let sound = bytes(&*file.file);
    let last = group_blocks(1).start + 1;
    for group in [0, 1] {
        let mut damaged = sound.clone();
        damaged[table_at(&file, group) + 100] ^= 1;
        let reopened = reopened(&damaged);
        assert_eq!(header(&reopened).unwrap(), [2; DATABASE_HEADER]);
        assert_eq!(block(&reopened, 1).unwrap(), [0; BLOCK]);
        assert_eq!(block(&reopened, last - 1).unwrap(), [4; BLOCK]);
        assert!(bytes(&*reopened.file) == damaged, "written before a change");
        // The next sync writes it, even if nothing else changes.
        reopened.sync_data().unwrap();
        assert_eq!(
            bytes(&*reopened.file)[FRONT as usize..],
            sound[FRONT as usize..]
        );
    }
}

#[test]
fn rebuilt_checksums_must_be_those_of_the_header() {
    let file = two_groups();
    let sound = bytes(&*file.file);
    let [first, second] = [0, 1].map(|group| table_at(&file, group));
    let at = usize::try_from(runs(1, 1).next().unwrap().offset).unwrap();
    for also in [second, at] {
        let mut damaged = sound.clone();
        damaged[first + 100] ^= 1;
        damaged[also + 100] ^= 1;
        assert!(problem(header(&reopened(&damaged))).contains("checksums of "));
    }
    let mut without_tables = sound.clone();
    without_tables[usize::try_from(table_offset(0, 0)).unwrap()..][..2 * BLOCK].fill(0);
    header(&reopened(&without_tables)).unwrap();
    without_tables[at] ^= 1;
    let expected = "the checksums of blocks 1 to 1021 were altered";
    assert_eq!(problem(header(&reopened(&without_tables))), expected);
}

/// Otherwise the next header would refer to them, as it has a later generation.
#[test]
fn checksums_that_no_header_refers_to_are_replaced_by_the_next_change() {
    let file = two_groups();
    let second = group_blocks(1).start;
    // Like the first sync of a commit of redb.
    file.write((second + 1) * BLOCK as u64, &[9; BLOCK])
        .unwrap();
    file.sync_data().unwrap();
    let after_a_power_cut = reopened(&bytes(&*file.file));
    file.roll_back().unwrap();
    for file in [after_a_power_cut, file] {
        assert_eq!(header(&file).unwrap(), [2; DATABASE_HEADER]);
        file.write(BLOCK as u64, &[7; BLOCK]).unwrap();
        commit(&file, 3);
        let found = reopened(&bytes(&*file.file));
        assert_eq!(header(&found).unwrap(), [3; DATABASE_HEADER]);
        assert_eq!(block(&found, 1).unwrap(), [7; BLOCK]);
        assert_eq!(block(&found, second).unwrap(), [4; BLOCK]);
        problem(block(&found, second + 1));
    }
}

#[test]
fn a_file_of_another_length_is_an_error() {
    let sound = bytes(&*filled().file);
    for len in [
        0,
        10,
        BLOCK,
        sound.len() / 2,
        sound.len() - BLOCK,
        sound.len() - 1,
    ] {
        let problem = problem(header(&reopened(&sound[..len])));
        assert!(
            problem.contains(&format!("{len} bytes instead of")),
            "{problem}"
        );
    }
    problem(header(&reopened(&[&sound[..], &[0; 100]].concat())));
    // As after a power cut while the file grows.
    header(&reopened(&[&sound[..], &[7; BLOCK]].concat())).unwrap();
}

#[test]
fn one_bad_copy_of_the_header_is_tolerated_and_two_are_an_error() {
    let intact = bytes(&*filled().file);
    for pair in HEADERS {
        let start = usize::try_from(pair).unwrap();
        let mut both = intact.clone();
        for copy in 0..2 {
            let mut one = intact.clone();
            one[start + copy * BLOCK..][..BLOCK].fill(0);
            assert_eq!(header(&reopened(&one)).unwrap(), [1; DATABASE_HEADER]);
            both[start + copy * BLOCK + 17] ^= 1;
        }
        problem(header(&reopened(&both)));
    }
}

proptest! {
    #[test]
    fn an_altered_byte_of_a_block_is_an_error(block_at in 1..4_u64, at in 0..BLOCK, change in 1..=u8::MAX) {
        let mut bytes = bytes(&*filled().file);
        bytes[usize::try_from(runs(block_at, 1).next().unwrap().offset).unwrap() + at] ^= change;
        let file = reopened(&bytes);
        for index in 1..4 {
            prop_assert_eq!(block(&file, index).is_err(), index == block_at);
        }
    }

    #[test]
    fn an_altered_byte_of_the_checksums_is_rebuilt(at in 0..BLOCK, change in 1..=u8::MAX) {
        let file = filled();
        let sound = bytes(&*file.file);
        let mut altered = sound.clone();
        altered[table_at(&file, 0) + at] ^= change;
        let file = reopened(&altered);
        prop_assert_eq!(header(&file).unwrap(), [1; DATABASE_HEADER]);
        prop_assert_eq!(block(&file, 2).unwrap(), [2; BLOCK]);
    }

    #[test]
    fn an_interrupted_header_write_leaves_it_or_the_one_before(sectors in 0..16_usize) {
        let file = filled();
        let before = bytes(&*file.file);
        commit(&file, 2);
        let mut bytes = bytes(&*file.file);
        let end = usize::try_from(FRONT).unwrap();
        // The rest of the write is lost.
        let pair = usize::try_from(HEADERS[file.with_state(|state| state.pair).unwrap()]).unwrap();
        bytes[pair + sectors * SECTOR..end].copy_from_slice(&before[pair + sectors * SECTOR..end]);
        let expected = if sectors == 0 { 1 } else { 2 };
        prop_assert_eq!(header(&reopened(&bytes)).unwrap(), [expected; DATABASE_HEADER]);
    }
}

/// A file whose changes are logged, and of which one write can fail.
#[derive(Debug, Default)]
struct Log {
    file: InMemoryBackend,
    ops: Arc<Mutex<Vec<&'static str>>>,
    fails_next: Arc<AtomicBool>,
}

impl StorageBackend for Log {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.ops.lock().push("length");
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.ops.lock().push("sync");
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        if self.fails_next.swap(false, Ordering::Relaxed) {
            return Err(io::Error::from_raw_os_error(5));
        }
        self.ops.lock().push(match offset {
            ..FRONT => "header",
            _ if offset < table_offset(0, 2) => "checksums",
            _ => "block",
        });
        self.file.write(offset, data)
    }
}

impl Log {
    fn holding(bytes: &[u8]) -> Self {
        let log = Self::default();
        log.file.set_len(bytes.len() as u64).unwrap();
        log.file.write(0, bytes).unwrap();
        log
    }
}

/// After the first write to a block, they could not be rebuilt again.
#[test]
fn rebuilt_checksums_are_on_disk_before_any_other_write() {
    let file = filled();
    let mut bytes = bytes(&*file.file);
    bytes[table_at(&file, 0)] ^= 1;
    for step in 0..3 {
        let log = Log::holding(&bytes);
        let ops = Arc::clone(&log.ops);
        let file = BlockFile::existing(log);
        let write = || file.write(2 * BLOCK as u64, &[5; BLOCK]);
        let done = match step {
            0 => write(),
            1 => file.set_len(3 * BLOCK as u64),
            _ => {
                // Only the header is written first.
                commit(&file, 2);
                write()
            }
        };
        done.unwrap();
        let ops = ops.lock();
        assert_eq!(ops[..4], ["checksums", "sync", "header", "sync"]);
        assert_eq!(ops.iter().filter(|op| **op == "checksums").count(), 1);
    }
}

#[test]
fn each_part_is_on_disk_before_what_refers_to_it() {
    let log = Log::holding(&bytes(&*filled().file));
    let ops = Arc::clone(&log.ops);
    let file = BlockFile::existing(log);
    let done = || std::mem::take(&mut *ops.lock());

    // The header that was read may be in a cache only.
    file.write(2 * BLOCK as u64, &[5; BLOCK]).unwrap();
    assert_eq!(done(), ["header", "sync", "block"]);
    commit(&file, 2);
    assert_eq!(done(), ["checksums", "sync", "header", "sync"]);

    // Like a commit of redb: first the slot that is not in use, then its selection.
    let mut next = [2; DATABASE_HEADER];
    next[192..].fill(3);
    file.write(3 * BLOCK as u64, &[6; BLOCK]).unwrap();
    file.write(0, &next).unwrap();
    file.sync_data().unwrap();
    assert_eq!(done(), ["block", "checksums", "sync"]);
    next[9] = 3;
    file.write(0, &next).unwrap();
    file.sync_data().unwrap();
    assert_eq!(done(), ["header", "sync"]);

    // A shorter file is truncated afterwards.
    file.set_len(3 * BLOCK as u64).unwrap();
    commit(&file, 4);
    assert_eq!(done(), ["checksums", "sync", "header", "sync", "length"]);
}

/// Regression: redb goes on after a failed write that only frees memory. The next recovery repeated it over
/// what a later commit had written there.
#[test]
fn a_failed_write_is_not_repeated_over_a_later_one() {
    let log = Log::holding(&bytes(&*filled().file));
    let fails_next = Arc::clone(&log.fails_next);
    let file = BlockFile::existing(log);
    commit(&file, 2);
    fails_next.store(true, Ordering::Relaxed);
    file.write(2 * BLOCK as u64, &[5; BLOCK]).unwrap_err();
    file.write(2 * BLOCK as u64, &[6; BLOCK]).unwrap();
    commit(&file, 3);
    file.roll_back().unwrap();
    file.settle().unwrap();
    assert_eq!(block(&file, 2).unwrap(), [6; BLOCK]);
}

/// Sends that it pauses, and waits until it may go on.
type Pause = (Sender<()>, Receiver<()>);

/// A file that pauses before it returns its length, if the other side waits for that.
#[derive(Debug, Default)]
struct Pausing {
    file: InMemoryBackend,
    pause: Arc<Mutex<Option<Pause>>>,
}

impl StorageBackend for Pausing {
    fn len(&self) -> io::Result<u64> {
        let len = self.file.len();
        let pause = self.pause.lock().take();
        if let Some((paused, go_on)) = pause {
            paused.send(()).unwrap();
            // The other side may have to wait for this one.
            let _ = go_on.recv_timeout(Duration::from_millis(100));
        }
        len
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.write(offset, data)
    }
}

/// Regression: a sync that ends truncates the file to the length that it has read before.
#[test]
fn a_file_that_grows_during_a_sync_is_not_truncated() {
    let bytes = bytes(&*filled().file);
    let backend = Pausing::default();
    backend.file.set_len(bytes.len() as u64).unwrap();
    backend.file.write(0, &bytes).unwrap();
    let pause = Arc::clone(&backend.pause);
    let file = BlockFile::existing(backend);
    commit(&file, 2);
    file.set_len(3 * BLOCK as u64).unwrap();
    let (paused, is_paused) = channel();
    let (go_on, may_go_on) = channel();
    *pause.lock() = Some((paused, may_go_on));
    std::thread::scope(|threads| {
        threads.spawn(|| commit(&file, 3));
        is_paused.recv().unwrap();
        file.set_len(9 * BLOCK as u64).unwrap();
        let _ = go_on.send(());
    });
    assert_eq!(file.file.len().unwrap(), file_len(9));
}
