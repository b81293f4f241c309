//! Settings of the log.

use std::io;

use clap::Args;

use crate::log::{Event, Level, LineFormat, LogLines};

#[derive(Args, Clone, Copy)]
pub(super) struct LogOpts {
    /// The format of the log on standard error: text, or one JSON object per line (json)
    #[arg(long, value_name = "FORMAT", default_value = "text", value_parser = format)]
    log_format: LineFormat,
    /// What the log has: off, error, warn, info (also changes, and a sample of the refusals) or debug
    /// (also each refusal)
    #[arg(long, value_name = "LEVEL", default_value = "info", value_parser = level)]
    log_level: LogLevel,
}

/// The least urgent level that is logged; `None` for no log.
#[derive(Clone, Copy, Debug)]
struct LogLevel(Option<Level>);

impl LogOpts {
    pub(super) fn start(self) -> io::Result<LogLines> {
        let LogLevel(level) = self.log_level;
        LogLines::start(self.log_format, level)
    }

    pub(super) fn is_json(self) -> bool {
        self.log_format == LineFormat::Json
    }

    /// Logs, at each level, why the program ends, and the command to type.
    pub(super) fn fail(self, problem: &str, next: &str) -> io::Result<()> {
        let lines = LogLines::start(self.log_format, Some(Level::Error))?;
        lines.log().emit(&Event::Failed { problem, next });
        Ok(())
    }
}

fn format(text: &str) -> Result<LineFormat, String> {
    match text {
        "text" => Ok(LineFormat::Text),
        "json" => Ok(LineFormat::Json),
        _ => Err("expected text or json".into()),
    }
}

fn level(text: &str) -> Result<LogLevel, String> {
    Ok(LogLevel(match text {
        "off" => None,
        "error" => Some(Level::Error),
        "warn" => Some(Level::Warn),
        "info" => Some(Level::Info),
        "debug" => Some(Level::Debug),
        _ => return Err("expected off, error, warn, info or debug".into()),
    }))
}
