use super::*;
use proptest::prelude::*;
use redb::backends::InMemoryBackend;

fn bytes(file: &dyn StorageBackend) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(file.len().unwrap()).unwrap()];
    file.read(0, &mut bytes).unwrap();
    bytes
}

fn reopened(bytes: &[u8]) -> Blocks {
    let file = InMemoryBackend::new();
    file.set_len(bytes.len() as u64).unwrap();
    file.write(0, bytes).unwrap();
    Blocks::existing(file)
}

fn header(blocks: &Blocks) -> io::Result<[u8; HEADER]> {
    let mut header = [0; HEADER];
    blocks.read(0, &mut header).map(|()| header)
}

/// Four blocks, of which the last three are 1, 2 and 3 throughout, and headers 1 and 2.
fn filled() -> Blocks {
    let blocks = Blocks::new(InMemoryBackend::new()).unwrap();
    assert_eq!(blocks.len().unwrap(), 0);
    blocks.set_len(4 * BLOCK as u64).unwrap();
    for n in 1..=2 {
        blocks.write(0, &[n; HEADER]).unwrap();
        blocks.sync_data().unwrap();
    }
    let data = [[1; BLOCK], [2; BLOCK], [3; BLOCK]].concat();
    blocks.write(BLOCK as u64, &data).unwrap();
    blocks
}

#[test]
fn blocks_and_the_last_header_read_back() {
    let filled = filled();
    for blocks in [reopened(&bytes(&*filled.file)), filled] {
        assert_eq!(blocks.len().unwrap(), 4 * BLOCK as u64);
        assert_eq!(header(&blocks).unwrap(), [2; HEADER]);
        let mut two = [0; 2 * BLOCK];
        blocks.read(2 * BLOCK as u64, &mut two).unwrap();
        assert_eq!(two[..BLOCK], [2; BLOCK]);
        assert_eq!(two[BLOCK..], [3; BLOCK]);
    }
}

#[test]
fn rolling_back_restores_the_last_synced_header() {
    let blocks = filled();
    blocks.write(0, &[3; HEADER]).unwrap();
    blocks.write(0, &[4; HEADER]).unwrap();
    blocks.roll_back().unwrap();
    assert_eq!(header(&blocks).unwrap(), [2; HEADER]);
    // In the file only after settling.
    let in_file = |blocks: &Blocks| header(&reopened(&bytes(&*blocks.file))).unwrap();
    assert_eq!(in_file(&blocks), [4; HEADER]);
    blocks.settle().unwrap();
    assert_eq!(in_file(&blocks), [2; HEADER]);
    blocks.write(0, &[5; HEADER]).unwrap();
    blocks.sync_data().unwrap();
    assert_eq!(in_file(&blocks), [5; HEADER]);
}

#[test]
fn a_file_written_by_another_program_is_not_rolled_back() {
    let blocks = filled();
    let older = bytes(&*blocks.file);
    for n in 3..5 {
        blocks.write(0, &[n; HEADER]).unwrap();
        blocks.sync_data().unwrap();
    }
    blocks.file.write(0, &older).unwrap();
    let error = blocks.roll_back().unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
}

#[test]
fn a_block_at_another_index_is_an_error() {
    let mut bytes = bytes(&*filled().file);
    bytes.copy_within(FRAMED..2 * FRAMED, 2 * FRAMED);
    let blocks = reopened(&bytes);
    let mut block = [0; BLOCK];
    blocks.read(BLOCK as u64, &mut block).unwrap();
    let misplaced = blocks.read(2 * BLOCK as u64, &mut block).unwrap_err();
    assert_eq!(misplaced.kind(), io::ErrorKind::InvalidData);
    assert_eq!(misplaced.to_string(), "block 2 was altered");
}

#[test]
fn a_block_of_zeros_is_an_error() {
    let mut bytes = bytes(&*filled().file);
    bytes[FRAMED..].fill(0);
    let mut block = [0; BLOCK];
    assert!(reopened(&bytes).read(BLOCK as u64, &mut block).is_err());
}

#[test]
fn one_bad_sector_of_the_header_is_tolerated_and_two_are_an_error() {
    let intact = bytes(&*filled().file);
    for pair in PAIRS {
        let start = usize::try_from(pair).unwrap();
        let mut bytes = intact.clone();
        for (bad, sector) in bytes[start..start + PAIR].chunks_mut(PAIR / 2).enumerate() {
            let mut one = intact.clone();
            one[start + bad * PAIR / 2..][..PAIR / 2].fill(0);
            assert_eq!(header(&reopened(&one)).unwrap(), [2; HEADER]);
            sector[17] ^= 1;
        }
        let error = header(&reopened(&bytes)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }
}

proptest! {
    #[test]
    fn an_altered_byte_is_an_error(at in FRAMED..4 * FRAMED, change in 1..=u8::MAX) {
        let mut bytes = bytes(&*filled().file);
        bytes[at] ^= change;
        let blocks = reopened(&bytes);
        for index in 1..4 {
            let mut block = [0; BLOCK];
            let read = blocks.read((index * BLOCK) as u64, &mut block);
            prop_assert_eq!(read.is_err(), index == at / FRAMED);
        }
    }

    #[test]
    fn an_interrupted_header_write_leaves_it_or_the_one_before(
        writes in 1..5_u8,
        written in 0..FRAMED,
    ) {
        let blocks = filled();
        let before = bytes(&*blocks.file);
        // No sync happens in between, so all of these go to one pair.
        for n in 3..3 + writes {
            blocks.write(0, &[n; HEADER]).unwrap();
        }
        let mut bytes = bytes(&*blocks.file);
        bytes[written..].copy_from_slice(&before[written..]);
        let found = header(&reopened(&bytes)).unwrap();
        prop_assert!(found == [2; HEADER] || found == [2 + writes; HEADER]);
    }
}
