//! This process, and other processes on this machine.

/// Prevents core dumps of this process, whose memory has the secret and presented keys. On Linux, other
/// processes of the same user cannot read its memory either; root can.
#[cfg(all(unix, feature = "cli"))]
pub(crate) fn forbid_core_dumps() {
    use rustix::process::{Resource, Rlimit, setrlimit};

    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    // Lowering a limit of its own is allowed to every process.
    let _ = setrlimit(Resource::Core, none);
    // A core dump that is piped to a program ignores the limit.
    #[cfg(target_os = "linux")]
    let _ = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable);
}

#[cfg(all(not(unix), feature = "cli"))]
pub(crate) fn forbid_core_dumps() {}

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
