//! Messages of a server to one client.

use tokio::io::{AsyncWriteExt, DuplexStream, WriteHalf};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::spawn_local;

/// Sends whole messages, so that those of several tasks do not mix. The stream ends when all clones are
/// dropped.
#[derive(Clone)]
pub(super) struct Outbox(UnboundedSender<Vec<u8>>);

impl Outbox {
    pub(super) fn new(stream: WriteHalf<DuplexStream>) -> Self {
        let (sender, messages) = unbounded_channel();
        spawn_local(write(messages, stream));
        Self(sender)
    }

    /// Whether this is a clone.
    pub(super) fn is(&self, other: &Self) -> bool {
        self.0.same_channel(&other.0)
    }

    /// Has no effect if the client is gone.
    pub(super) fn send(&self, message: Vec<u8>) {
        let _ = self.0.send(message);
    }
}

async fn write(mut messages: UnboundedReceiver<Vec<u8>>, mut stream: WriteHalf<DuplexStream>) {
    while let Some(message) = messages.recv().await {
        if stream.write_all(&message).await.is_err() {
            return;
        }
    }
    let _ = stream.shutdown().await;
}
