//! Finds the process that has locked a file.

use std::path::Path;

/// Returns the id and the name of the process, and whether it is stopped.
#[cfg(target_os = "linux")]
pub(super) fn lock_holder(path: &Path) -> Option<String> {
    use std::os::unix::fs::MetadataExt;

    let inode = std::fs::metadata(path).ok()?.ino();
    let locks = std::fs::read_to_string("/proc/locks").ok()?;
    // `1: FLOCK  ADVISORY  WRITE 4711 08:01:262188 0 EOF`
    let pid = locks.lines().find_map(|line| {
        let mut fields = line.split_whitespace().skip(4);
        let pid: u32 = fields.next()?.parse().ok()?;
        let locked = fields.next()?.rsplit(':').next()?;
        (locked.parse() == Ok(inode)).then_some(pid)
    })?;
    // A process that has ended may have left the lock to a child process.
    let name = crate::sys::process::name(pid)?;
    let state = match crate::sys::process::is_stopped(pid) {
        true => ", which is stopped",
        false => "",
    };
    Some(format!("{pid} ({name}){state}"))
}

#[cfg(not(target_os = "linux"))]
pub(super) fn lock_holder(_: &Path) -> Option<String> {
    None
}
