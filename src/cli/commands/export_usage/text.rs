//! Text formats.

use std::io::{self, BufWriter, Write};

use super::RowWriter;
use crate::cli::csv;
use crate::input::text::escaped_json;
use crate::model::Usage;

/// Writes comma-separated values with a header.
pub(super) struct Csv<W: Write>(BufWriter<W>);

impl<W: Write> Csv<W> {
    pub(super) fn new(out: W) -> io::Result<Self> {
        let mut out = BufWriter::new(out);
        let header = csv::line([
            "at",
            "key_id",
            "method",
            "path",
            "ip",
            "status",
            "latency_us",
            "refused",
        ]);
        out.write_all(header.as_bytes())?;
        Ok(Self(out))
    }
}

impl<W: Write> RowWriter for Csv<W> {
    fn add(&mut self, usage: Usage) -> io::Result<()> {
        let line = csv::line([
            usage.at.to_string().as_str(),
            &usage.key_id.map_or(String::new(), |key| key.to_string()),
            usage.method.as_str(),
            &usage.path,
            &usage.ip.to_string(),
            &usage.status.to_string(),
            &usage.latency.as_micros().to_string(),
            usage.refused.map_or("", |reason| reason.as_str()),
        ]);
        self.0.write_all(line.as_bytes())
    }

    fn finish(mut self: Box<Self>) -> io::Result<()> {
        self.0.flush()
    }
}

/// Writes a JSON object per line.
pub(super) struct Ndjson<W: Write>(BufWriter<W>);

impl<W: Write> Ndjson<W> {
    pub(super) fn new(out: W) -> Self {
        Self(BufWriter::new(out))
    }
}

impl<W: Write> RowWriter for Ndjson<W> {
    fn add(&mut self, usage: Usage) -> io::Result<()> {
        let line = serde_json::to_string(&usage)?;
        self.0.write_all(escaped_json(&line).as_bytes())?;
        self.0.write_all(b"\n")
    }

    fn finish(mut self: Box<Self>) -> io::Result<()> {
        self.0.flush()
    }
}
