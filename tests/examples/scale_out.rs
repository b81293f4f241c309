//! The example with several processes, run as a new user runs it.

use crate::common::postgres::Database;
use crate::common::redis::Redis;
use crate::common::server::example;
use tempfile::TempDir;

#[test]
fn processes_share_limits_and_revocations() {
    let (dir, redis, database) = (TempDir::new().unwrap(), Redis::start(), Database::new());
    let output = example("scale_out", dir.path())
        .env("KEYGUARD_DB", &database.url)
        .env("KEYGUARD_REDIS", redis.url())
        .env("KEYGUARD_SECRET", crate::common::SECRET)
        .output()
        .unwrap();
    let printed = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{printed}{errors}");
    let together = "together: admitted 100 of 200, limit 100";
    assert!(printed.contains(together), "{printed}");
    let refused = printed.lines().filter(|line| line.contains(": refused "));
    assert_eq!(refused.count(), 4, "{printed}");
    assert!(!printed.contains("kg_live_"), "{printed}");
}
