//! Faults of the store and of servers in the log, as they begin and end.

use crate::log::{Event, Log};
use crate::model::BackendHealth;

pub(super) struct HealthLog {
    log: Log,
    /// Whether the store failed when it was last looked at.
    has_fault: bool,
    /// The servers that had a problem.
    down: Vec<&'static str>,
}

impl HealthLog {
    pub(super) fn new(log: Log) -> Self {
        Self {
            log,
            has_fault: false,
            down: Vec::new(),
        }
    }

    /// Logs what has begun or ended since the last call. While a fault lasts, its text may change; only the
    /// first one is logged.
    pub(super) fn update(&mut self, fault: Option<String>, backends: &[BackendHealth]) {
        match (self.has_fault, &fault) {
            (false, Some(problem)) => self.log.emit(&Event::StoreFailed { problem }),
            (true, None) => self.log.emit(&Event::StoreRecovered),
            _ => {}
        }
        self.has_fault = fault.is_some();
        for BackendHealth {
            server, problem, ..
        } in backends
        {
            match (self.down.contains(server), problem) {
                (false, Some(problem)) => {
                    self.down.push(*server);
                    self.log.emit(&Event::BackendDown { server, problem });
                }
                (true, None) => {
                    self.down.retain(|down| down != server);
                    self.log.emit(&Event::BackendUp { server });
                }
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn redis(problem: Option<&str>) -> [BackendHealth; 1] {
        [BackendHealth {
            server: "redis",
            is_up: problem.is_none(),
            problem: problem.map(str::to_owned),
            failures: 0,
            fallbacks: 0,
        }]
    }

    #[test]
    fn faults_are_logged_as_they_begin_and_end() {
        let (log, captured) = Log::captured();
        let mut health = HealthLog::new(log);
        health.update(None, &redis(None));
        assert_eq!(captured.take(), [""; 0]);
        for text in ["no space", "no file"] {
            health.update(Some(text.into()), &redis(Some(text)));
        }
        let failed = "store_failed problem=no space";
        let down = "backend_down server=redis problem=no space";
        assert_eq!(captured.take(), [failed, down]);
        health.update(None, &redis(Some("it is away")));
        assert_eq!(captured.take(), ["store_recovered"]);
        health.update(None, &redis(None));
        assert_eq!(captured.take(), ["backend_up server=redis"]);
    }
}
