//! The task that sends spans.

use std::io;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::collector::Collector;
use super::span::{Span, export_request};
use crate::log::{Event, Log};

const INTERVAL: Duration = Duration::from_secs(1);
const BATCH: usize = 512;
/// How long a request to the collector takes, and the end of the server waits.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The running export.
pub(in crate::serve) struct Exporter(Option<(JoinHandle<()>, watch::Sender<()>)>);

impl Exporter {
    /// An exporter without a collector.
    pub(super) fn idle() -> Self {
        Self(None)
    }

    pub(super) fn spawn(collector: Collector, spans: mpsc::Receiver<Span>, log: Log) -> Self {
        let (ended, end) = watch::channel(());
        let task = tokio::spawn(export(collector, spans, end, log));
        Self(Some((task, ended)))
    }

    /// Sends the rest. All tracers must have been dropped.
    pub(in crate::serve) async fn finish(self) {
        if let Some((task, ended)) = self.0 {
            drop(ended);
            let _ = timeout(TIMEOUT, task).await;
        }
    }
}

/// Sends batches until all senders are gone. Spans that cannot be sent are lost.
async fn export(
    collector: Collector,
    mut spans: mpsc::Receiver<Span>,
    mut end: watch::Receiver<()>,
    log: Log,
) {
    let mut batch = Vec::with_capacity(BATCH);
    let mut failure: Option<String> = None;
    while spans.recv_many(&mut batch, BATCH).await > 0 {
        let body = export_request(&batch).to_string();
        let sent = timeout(TIMEOUT, collector.send(body)).await;
        let sent = sent.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        let problem = sent.err().map(|error| error.to_string());
        if problem != failure {
            log.emit(&match &problem {
                Some(problem) => Event::ExportFailed { problem },
                None => Event::ExportRecovered,
            });
            failure = problem;
        }
        let is_full = batch.len() == BATCH;
        batch.clear();
        if !is_full {
            tokio::select! {
                () = sleep(INTERVAL) => {}
                // Without a sender, this is ready at once.
                _ = end.changed() => {}
            }
        }
    }
}
