//! Signals that end commands: put off, or noticed.

#[cfg(unix)]
use std::sync::Arc;
#[cfg(unix)]
use std::sync::atomic::{AtomicBool, Ordering};

#[cfg(unix)]
use signal_hook::consts::{SIGINT, SIGTERM};

use super::settings::Cli;

/// The signals that end a command.
#[cfg(unix)]
pub(super) const ENDING: [i32; 2] = [SIGINT, SIGTERM];

/// Sets a flag at a signal. If the flag is set already, the signal ends the process.
#[cfg(unix)]
pub(super) fn set_on_signal(signal: i32, flag: &Arc<AtomicBool>) {
    use signal_hook::flag::{register, register_conditional_default};

    // Without a handler, the signal ends the process.
    if register_conditional_default(signal, Arc::clone(flag)).is_ok() {
        let _ = register(signal, Arc::clone(flag));
    }
}

/// Signals that are put off.
pub(super) struct PutOffSignals {
    #[cfg(unix)]
    came: [(i32, Arc<AtomicBool>); 2],
}

impl PutOffSignals {
    fn new() -> Self {
        Self {
            #[cfg(unix)]
            came: ENDING.map(|signal| {
                let came = Arc::default();
                set_on_signal(signal, &came);
                (signal, came)
            }),
        }
    }

    fn end(&self) {
        #[cfg(unix)]
        for (signal, came) in &self.came {
            if came.load(Ordering::Relaxed) {
                let _ = signal_hook::low_level::emulate_default_handler(*signal);
            }
        }
    }
}

impl Cli {
    /// Puts SIGINT and SIGTERM off until the outcome of the command was reported, so that the text of a key that was
    /// stored is printed. A second signal ends the process at once.
    pub(super) fn put_off_signals(&self) {
        self.signals.get_or_init(PutOffSignals::new);
    }

    /// Ends the process if a signal came that was put off.
    pub(super) fn end_by_signals(&self) {
        if let Some(signals) = self.signals.get() {
            signals.end();
        }
    }
}
