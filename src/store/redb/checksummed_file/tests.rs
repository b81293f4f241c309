use super::*;
use proptest::prelude::*;
use redb::backends::InMemoryBackend;

fn bytes(file: &dyn StorageBackend) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(file.len().unwrap()).unwrap()];
    file.read(0, &mut bytes).unwrap();
    bytes
}

fn reopened(bytes: &[u8]) -> ChecksummedFile {
    let file = InMemoryBackend::new();
    file.set_len(bytes.len() as u64).unwrap();
    file.write(0, bytes).unwrap();
    ChecksummedFile::existing(file)
}

fn header(file: &ChecksummedFile) -> io::Result<[u8; HEADER]> {
    let mut header = [0; HEADER];
    file.read(0, &mut header).map(|()| header)
}

/// Four blocks, of which the last three are 1, 2 and 3 throughout, and headers 1 and 2.
fn filled() -> ChecksummedFile {
    let file = ChecksummedFile::new(InMemoryBackend::new()).unwrap();
    assert_eq!(file.len().unwrap(), 0);
    file.set_len(4 * BLOCK as u64).unwrap();
    for n in 1..=2 {
        file.write(0, &[n; HEADER]).unwrap();
        file.sync_data().unwrap();
    }
    let data = [[1; BLOCK], [2; BLOCK], [3; BLOCK]].concat();
    file.write(BLOCK as u64, &data).unwrap();
    file
}

#[test]
fn blocks_and_the_last_header_read_back() {
    let filled = filled();
    for file in [reopened(&bytes(&*filled.file)), filled] {
        assert_eq!(file.len().unwrap(), 4 * BLOCK as u64);
        assert_eq!(header(&file).unwrap(), [2; HEADER]);
        let mut two = [0; 2 * BLOCK];
        file.read(2 * BLOCK as u64, &mut two).unwrap();
        assert_eq!(two[..BLOCK], [2; BLOCK]);
        assert_eq!(two[BLOCK..], [3; BLOCK]);
    }
}

#[test]
fn rolling_back_restores_the_last_synced_header() {
    let file = filled();
    file.write(0, &[3; HEADER]).unwrap();
    file.write(0, &[4; HEADER]).unwrap();
    file.roll_back().unwrap();
    assert_eq!(header(&file).unwrap(), [2; HEADER]);
    // In the file only after settling.
    let in_file = |file: &ChecksummedFile| header(&reopened(&bytes(&*file.file))).unwrap();
    assert_eq!(in_file(&file), [4; HEADER]);
    file.settle().unwrap();
    assert_eq!(in_file(&file), [2; HEADER]);
    file.write(0, &[5; HEADER]).unwrap();
    file.sync_data().unwrap();
    assert_eq!(in_file(&file), [5; HEADER]);
}

#[test]
fn a_file_written_by_another_program_is_not_rolled_back() {
    let file = filled();
    let older = bytes(&*file.file);
    for n in 3..5 {
        file.write(0, &[n; HEADER]).unwrap();
        file.sync_data().unwrap();
    }
    file.file.write(0, &older).unwrap();
    let error = file.roll_back().unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
}

#[test]
fn a_block_at_another_index_is_an_error() {
    let mut bytes = bytes(&*filled().file);
    bytes.copy_within(FRAMED..2 * FRAMED, 2 * FRAMED);
    let file = reopened(&bytes);
    let mut block = [0; BLOCK];
    file.read(BLOCK as u64, &mut block).unwrap();
    let misplaced = file.read(2 * BLOCK as u64, &mut block).unwrap_err();
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
        let file = reopened(&bytes);
        for index in 1..4 {
            let mut block = [0; BLOCK];
            let read = file.read((index * BLOCK) as u64, &mut block);
            prop_assert_eq!(read.is_err(), index == at / FRAMED);
        }
    }

    #[test]
    fn an_interrupted_header_write_leaves_it_or_the_one_before(
        writes in 1..5_u8,
        written in 0..FRAMED,
    ) {
        let file = filled();
        let before = bytes(&*file.file);
        // No sync happens in between, so all of these go to one pair.
        for n in 3..3 + writes {
            file.write(0, &[n; HEADER]).unwrap();
        }
        let mut bytes = bytes(&*file.file);
        bytes[written..].copy_from_slice(&before[written..]);
        let found = header(&reopened(&bytes)).unwrap();
        prop_assert!(found == [2; HEADER] || found == [2 + writes; HEADER]);
    }
}
