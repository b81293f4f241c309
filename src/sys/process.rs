//! Other processes on this machine.

/// The name of a process, if known.
#[cfg(target_os = "linux")]
pub(crate) fn name(pid: u32) -> Option<String> {
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    Some(name.trim_end().escape_debug().to_string())
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn name(_: u32) -> Option<String> {
    None
}

/// Whether a process is stopped (Ctrl-Z, SIGSTOP or a debugger).
#[cfg(target_os = "linux")]
pub(crate) fn is_stopped(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // `4711 (any name) T …`
    let state = stat.rsplit_once(") ").map(|(_, rest)| rest.as_bytes());
    state.is_some_and(|state| state.starts_with(b"T") || state.starts_with(b"t"))
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn is_stopped(_: u32) -> bool {
    false
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn this_process_runs_and_has_a_name() {
        assert!(name(std::process::id()).is_some());
        assert!(!is_stopped(std::process::id()));
        assert_eq!(name(u32::MAX), None);
        assert!(!is_stopped(u32::MAX));
    }
}
