//! Entry points of the fuzz targets; compiled for them alone.

use crate::client_ip::ClientIp;
use crate::guard::{Config, KeyGuard};
use crate::key;
use crate::store::codec::{self, block::BlockReader};

/// The text of a key, in any form.
pub fn key_text(data: &[u8]) {
    let well_formed = key::is_well_formed(data);
    assert!(!well_formed || key::has_key_shape(data));
}

thread_local! {
    static GUARD: KeyGuard = {
        let dir = std::env::temp_dir().join(format!("keyguard-fuzz-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a temporary directory");
        KeyGuard::open(dir.join("headers.redb"), Config::new("fuzz")).expect("a new file")
    };
}

/// Header lines `NAME:VALUE`, as one request.
pub fn headers(data: &[u8]) {
    let lines = data.split(|byte| *byte == b'\n');
    let headers: Vec<(String, &[u8])> = lines
        .filter_map(|line| {
            let colon = line.iter().position(|byte| *byte == b':')?;
            Some((
                String::from_utf8_lossy(&line[..colon]).into_owned(),
                &line[colon + 1..],
            ))
        })
        .collect();
    let path = String::from_utf8_lossy(data);
    GUARD.with(|kg| {
        let denial = kg
            .check(&headers, ClientIp::LOCAL, &path)
            .expect_err("no key was issued");
        assert!(matches!(denial.status(), 400 | 401));
    });
}

/// Every record and block of the data file.
pub fn codec(data: &[u8]) {
    let _ = codec::decode_org(crate::OrgId(1), data);
    let _ = codec::decode_key(crate::KeyId(1), data);
    let _ = codec::decode_credential(key::HashedKey([0; 32]), data);
    BlockReader::new(data).take(100_000).for_each(drop);
}

/// Arbitrary bytes as a data file: refused or opened, and left as they were if refused.
pub fn open_file(data: &[u8]) {
    let dir = std::env::temp_dir().join(format!("keyguard-fuzz-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("a temporary directory");
    let path = dir.join("any.redb");
    std::fs::write(&path, data).expect("a writable directory");
    let opened = KeyGuard::open(&path, Config::new("fuzz"));
    if opened.is_err() {
        assert_eq!(std::fs::read(&path).expect("the file is there"), data);
    }
}
