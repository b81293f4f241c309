//! Lines on standard error, written by a thread of its own.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::{Condvar, Mutex};

use super::line::LineFormat;
use super::record::{Level, Record};
use super::{Log, Output};
use crate::time::Timestamp;

/// The largest number of waiting lines.
const CAPACITY: usize = 8_192;

/// How long the end of the program waits for a slow log.
const CLOSED_WITHIN: Duration = Duration::from_secs(1);

/// The log of a program. Emitting an event never waits: if standard error is slower than the log, lines are
/// lost and counted. When dropped, it writes what is waiting.
pub(crate) struct LogLines(Arc<Shared>);

struct Shared {
    format: LineFormat,
    level: Option<Level>,
    queue: Mutex<Queue>,
    /// Notified about new lines and about the end.
    work: Condvar,
    /// Notified when all lines are written.
    done: Condvar,
}

#[derive(Default)]
struct Queue {
    lines: VecDeque<String>,
    lost: u64,
    is_writing: bool,
    is_closed: bool,
}

impl LogLines {
    /// Starts to write lines of this level or a more urgent one; `None` for no lines.
    pub(crate) fn start(format: LineFormat, level: Option<Level>) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            format,
            level,
            queue: Mutex::default(),
            work: Condvar::new(),
            done: Condvar::new(),
        });
        let writer = Arc::clone(&shared);
        std::thread::Builder::new()
            .name("keyguard-log".into())
            .spawn(move || writer.run(&mut io::stderr()))?;
        Ok(Self(shared))
    }

    pub(crate) fn log(&self) -> Log {
        Log(Some(Arc::clone(&self.0) as _))
    }
}

impl Drop for LogLines {
    fn drop(&mut self) {
        let mut queue = self.0.queue.lock();
        queue.is_closed = true;
        self.0.work.notify_one();
        let is_busy = |queue: &mut Queue| queue.is_writing || queue.has_work();
        self.0
            .done
            .wait_while_for(&mut queue, is_busy, CLOSED_WITHIN);
    }
}

impl Output for Shared {
    fn is_enabled(&self, level: Level) -> bool {
        self.level.is_some_and(|most| level <= most)
    }

    fn write(&self, record: &Record) {
        let line = self.format.line(record, now());
        let mut queue = self.queue.lock();
        if queue.lines.len() < CAPACITY {
            queue.lines.push_back(line);
        } else {
            queue.lost += 1;
        }
        self.work.notify_one();
    }
}

impl Shared {
    fn run(&self, out: &mut impl Write) {
        let mut queue = self.queue.lock();
        loop {
            queue.is_writing = false;
            self.done.notify_all();
            self.work
                .wait_while(&mut queue, |queue| !queue.has_work() && !queue.is_closed);
            if !queue.has_work() {
                return;
            }
            let (lines, lost) = queue.take();
            queue.is_writing = true;
            drop(queue);
            let mut text: String = lines.into_iter().collect();
            if lost > 0 {
                let record = Record::new(Level::Error, "log_lost").number("count", lost);
                text += &self.format.line(&record, now());
            }
            // There is nowhere else to report that standard error is closed.
            let _ = out.write_all(text.as_bytes());
            queue = self.queue.lock();
        }
    }
}

impl Queue {
    fn has_work(&self) -> bool {
        !self.lines.is_empty() || self.lost > 0
    }

    fn take(&mut self) -> (VecDeque<String>, u64) {
        (
            std::mem::take(&mut self.lines),
            std::mem::take(&mut self.lost),
        )
    }
}

fn now() -> Timestamp {
    SystemTime::now().into()
}

#[cfg(test)]
mod tests {
    use super::super::Event;
    use super::*;

    fn lines(level: Option<Level>) -> LogLines {
        LogLines(Arc::new(Shared {
            format: LineFormat::Text,
            level,
            queue: Mutex::default(),
            work: Condvar::new(),
            done: Condvar::new(),
        }))
    }

    /// Writes what waits, and ends.
    fn written(lines: &LogLines) -> String {
        lines.0.queue.lock().is_closed = true;
        let mut out = Vec::new();
        lines.0.run(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn lines_beyond_the_capacity_are_counted() {
        let lines = lines(Some(Level::Info));
        for _ in 0..CAPACITY + 3 {
            lines.log().emit(&Event::Stopping);
        }
        let written = written(&lines);
        assert_eq!(written.lines().count(), CAPACITY + 1);
        assert!(written.ends_with(" ERROR log_lost count=3\n"));
    }

    #[test]
    fn a_level_excludes_less_urgent_events() {
        for (level, expected) in [(None, 0), (Some(Level::Warn), 1), (Some(Level::Info), 2)] {
            let lines = lines(level);
            let log = lines.log();
            log.emit(&Event::Stopping);
            log.emit(&Event::Warning { text: "a" });
            assert_eq!(written(&lines).lines().count(), expected, "{level:?}");
        }
    }
}
