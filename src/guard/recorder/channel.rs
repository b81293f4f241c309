//! Channels, each from one thread to the writer. Neither end waits for the other to finish its work.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use super::chunk::Chunk;
use crate::store::UsageEvent;
use crate::sys::sync::Mutex;

/// The end of the recording thread.
pub(super) struct Sender {
    shared: Arc<Mutex<Shared>>,
    /// The last chunk of the channel.
    chunk: Arc<Chunk>,
    /// The number of words in `chunk`.
    len: usize,
    /// The number of events in `chunk`.
    events: usize,
}

/// The end of the writer.
pub(super) struct Receiver(Arc<Mutex<Shared>>);

struct Shared {
    /// Chunks with unread events, oldest first. The sender appends to the last one.
    chunks: VecDeque<Arc<Chunk>>,
    /// The number of words of the first chunk that are read.
    read: usize,
    /// The number of events in all chunks but the last.
    handed_over: usize,
    /// Whether the sender is gone.
    is_closed: bool,
}

/// What a receiver found.
pub(super) struct Received {
    /// The number of events in the chunks that were handed over.
    pub(super) handed_over: usize,
    /// Whether the sender is gone.
    pub(super) is_closed: bool,
}

/// Some words of a chunk.
pub(super) struct Part {
    pub(super) chunk: Arc<Chunk>,
    pub(super) words: Range<usize>,
    /// Whether the chunk gets no further words.
    pub(super) is_last: bool,
}

/// Creates a channel that begins with an empty chunk.
pub(super) fn channel(chunk: Arc<Chunk>) -> (Sender, Receiver) {
    let shared = Arc::new(Mutex::new(Shared {
        chunks: [Arc::clone(&chunk)].into(),
        read: 0,
        handed_over: 0,
        is_closed: false,
    }));
    let sender = Sender {
        shared: Arc::clone(&shared),
        chunk,
        len: 0,
        events: 0,
    };
    (sender, Receiver(shared))
}

impl Sender {
    /// Sends an event; returns false if the chunk is full.
    #[inline]
    pub(super) fn send(&mut self, event: &UsageEvent, path: &[u8]) -> bool {
        let Some(len) = self.chunk.push(self.len, event, path) else {
            return false;
        };
        self.len = len;
        self.events += 1;
        true
    }

    /// The number of events in the chunk.
    pub(super) fn events(&self) -> usize {
        self.events
    }

    /// Hands the chunk over, and continues with an empty one.
    pub(super) fn hand_over(&mut self, next: Arc<Chunk>) {
        let mut shared = self.shared.lock();
        shared.handed_over += self.events;
        shared.chunks.push_back(Arc::clone(&next));
        drop(shared);
        self.chunk = next;
        self.len = 0;
        self.events = 0;
    }

    /// Whether the receiver is gone.
    pub(super) fn is_orphaned(&self) -> bool {
        Arc::strong_count(&self.shared) == 1
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.shared.lock().is_closed = true;
    }
}

impl Receiver {
    /// Adds all unread events to `parts`.
    pub(super) fn receive(&self, parts: &mut Vec<Part>) -> Received {
        let mut shared = self.0.lock();
        let Shared { chunks, read, .. } = &mut *shared;
        while chunks.len() > 1 {
            parts.extend(chunks.pop_front().map(|chunk| Part {
                words: std::mem::take(read)..chunk.len(),
                chunk,
                is_last: true,
            }));
        }
        parts.extend(chunks.front().map(|chunk| {
            let len = chunk.len();
            Part {
                words: std::mem::replace(read, len)..len,
                chunk: Arc::clone(chunk),
                is_last: false,
            }
        }));
        Received {
            handed_over: std::mem::take(&mut shared.handed_over),
            is_closed: shared.is_closed,
        }
    }
}
