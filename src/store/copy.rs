//! The results and the progress of copying a data file.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use super::StoreError;

/// A new data file with all rows of another one, written by [`Admin::backup`](crate::Admin::backup),
/// [`KeyGuard::backup`](crate::KeyGuard::backup), [`KeyGuard::restore`](crate::KeyGuard::restore) or
/// [`KeyGuard::compact`](crate::KeyGuard::compact), and read back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct FileCopy {
    /// The rows, of all tables.
    pub rows: u64,
    /// The length of the new file.
    pub bytes: u64,
    /// Damaged blocks of requests, which the new file lacks. [`KeyGuard::verify`](crate::KeyGuard::verify) of the
    /// original names what is lost.
    pub lost_blocks: u64,
    /// Tables of totals with rows that cannot be read, which the new file lacks.
    /// [`KeyGuard::verify`](crate::KeyGuard::verify) of the original names the rows.
    #[serde(default)]
    pub lost_totals: u64,
    /// Tables of windows of rate limits with rows that cannot be read, which the new file lacks: these windows start
    /// empty.
    #[serde(default)]
    pub lost_windows: u64,
    /// Tables with damaged requests, totals or windows that were set aside earlier, which the new file lacks.
    /// [`KeyGuard::verify`](crate::KeyGuard::verify) of the original lists them.
    pub tables_set_aside: u64,
}

/// Why a data file was not copied. Nothing is left at the target, unless only its directory could not be synced.
#[derive(Debug)]
pub(crate) enum CopyError {
    /// The data file cannot be read.
    Source(StoreError),
    /// The copy cannot be written or read back.
    Target(io::Error),
}

/// The progress of a copy, shared with threads that show it or cancel it.
#[derive(Debug, Default)]
pub(crate) struct CopyProgress {
    rows: AtomicU64,
    total: AtomicU64,
    is_cancelled: Arc<AtomicBool>,
}

impl CopyProgress {
    /// Starts a copy of `total` rows.
    pub(crate) fn begin(&self, total: u64) {
        self.rows.store(0, Ordering::Relaxed);
        self.total.store(total, Ordering::Relaxed);
    }

    pub(crate) fn end(&self) {
        self.begin(0);
    }

    /// Notes copied rows. Fails if the copy is cancelled.
    pub(crate) fn add(&self, rows: u64) -> Result<(), CopyError> {
        self.rows.fetch_add(rows, Ordering::Relaxed);
        match self.is_cancelled.load(Ordering::Relaxed) {
            false => Ok(()),
            true => Err(CopyError::Target(cancelled())),
        }
    }

    /// Returns the fraction of the rows that are copied, from 0 to 1; `None` without a copy in progress.
    pub(crate) fn fraction(&self) -> Option<f64> {
        match self.total.load(Ordering::Relaxed) {
            0 => None,
            total => Some((self.rows.load(Ordering::Relaxed) as f64 / total as f64).min(1.0)),
        }
    }

    /// Makes this copy and all later ones fail.
    pub(crate) fn cancel(&self) {
        self.is_cancelled.store(true, Ordering::Relaxed);
    }

    /// Whether [`Self::cancel`] was called.
    #[cfg(feature = "serve")]
    pub(crate) fn is_cancelled(&self) -> bool {
        self.is_cancelled.load(Ordering::Relaxed)
    }

    /// Returns the flag that [`Self::cancel`] sets.
    pub(crate) fn cancel_flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.is_cancelled)
    }
}

pub(crate) fn cancelled() -> io::Error {
    io::Error::other("it was cancelled")
}
