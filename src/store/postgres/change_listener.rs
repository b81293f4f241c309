//! Passing changes of other nodes on.

use parking_lot::Mutex;

use crate::store::ChangeEvent;

type Callback = Box<dyn Fn(ChangeEvent) + Send + Sync>;

/// Passes changes of other nodes on.
#[derive(Default)]
pub(super) struct ChangeListener(Mutex<Listening>);

#[derive(Default)]
struct Listening {
    callback: Option<Callback>,
    /// Changes that arrived before the callback was set.
    pending: Vec<ChangeEvent>,
}

impl ChangeListener {
    /// Returns false if there is no callback and the buffer is full.
    pub(super) fn notify(&self, changes: Vec<ChangeEvent>) -> bool {
        const MOST: usize = 1_000;
        let mut listening = self.0.lock();
        let Listening { callback, pending } = &mut *listening;
        match callback {
            Some(callback) => changes.into_iter().for_each(callback),
            None if pending.len() + changes.len() <= MOST => pending.extend(changes),
            None => return false,
        }
        true
    }

    pub(super) fn set(&self, callback: Callback) {
        let mut listening = self.0.lock();
        std::mem::take(&mut listening.pending)
            .into_iter()
            .for_each(&callback);
        listening.callback = Some(callback);
    }

    #[cfg(test)]
    pub(super) fn has_pending(&self) -> bool {
        !self.0.lock().pending.is_empty()
    }
}
