//! The file of `--usage-log`.

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::model::Usage;
use crate::sink::{JsonLines, UsageSink};

/// A file of JSON lines that is reopened on request, for log rotation.
pub(super) struct UsageLog {
    file: PathBuf,
    lines: JsonLines<File>,
    /// Set to request that the file be reopened.
    reopen: Arc<AtomicBool>,
}

impl UsageLog {
    pub(super) fn open(file: PathBuf, reopen: Arc<AtomicBool>) -> io::Result<Self> {
        let lines = JsonLines::append(&file)?;
        Ok(Self {
            file,
            lines,
            reopen,
        })
    }

    fn reopen(&mut self) -> io::Result<()> {
        if self.reopen.swap(false, Ordering::Relaxed) {
            let lines = JsonLines::append(&self.file);
            // Retried with the next batch.
            self.lines = lines.inspect_err(|_| self.reopen.store(true, Ordering::Relaxed))?;
        }
        Ok(())
    }
}

impl UsageSink for UsageLog {
    fn write(&mut self, batch: &[Usage]) -> io::Result<()> {
        self.reopen()?;
        self.lines.write(batch)
    }
}
