//! `export-usage`

use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use crate::admin::command::{GetUsage, ListRequests, RequestFilter, Rows};
use crate::cli::args::{RequestFilterArgs, TimeRangeArgs};
use crate::cli::connection::GuardConnection;
use crate::cli::csv;
use crate::cli::format::count;
use crate::cli::render::Panel;
use crate::cli::{error::CliError, exit::Exit, settings::Cli};
use crate::input::text::escaped_json;
use crate::model::{Usage, UsageGroup};
use crate::sys::AtomicFile;

const EXAMPLES: &str = "Examples:
  keyguard export-usage --to november.csv --since 2026-11-01T00:00:00Z
  keyguard export-usage --to refused.ndjson --refused --since 24h
  keyguard export-usage --to - --key 7 | gzip > key7.csv.gz

Requests with known keys are exported, as long as they are kept. Other tools convert the file to Parquet:
  duckdb -c \"COPY (FROM 'november.csv') TO 'november.parquet'\"";

#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Opts {
    /// The file to create; `-` for standard output
    #[arg(long, value_name = "FILE")]
    to: PathBuf,
    /// The format [default: ndjson for a file with this extension, else csv]
    #[arg(long)]
    format: Option<Format>,
    #[command(flatten)]
    times: TimeRangeArgs,
    #[command(flatten)]
    filter: RequestFilterArgs,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Comma-separated values, with a header
    Csv,
    /// A JSON object per line
    Ndjson,
}

pub(crate) fn run(cli: &Cli, opts: Opts) -> Result<Exit, CliError> {
    let mut export = Export {
        format: opts.format.unwrap_or_else(|| Format::of(&opts.to)),
        connection: cli.connect()?,
        times: opts.times,
        filter: opts.filter.into(),
    };
    if opts.to == Path::new("-") {
        export.write(&mut io::stdout().lock(), CliError::Output)?;
        return Ok(Exit::Done);
    }
    let not_written = |error: io::Error| CliError::UsageFile {
        file: opts.to.clone(),
        problem: match error.kind() {
            io::ErrorKind::AlreadyExists => "it exists; give another path".to_owned(),
            _ => error.to_string(),
        },
    };
    if opts.to.exists() {
        return Err(not_written(io::ErrorKind::AlreadyExists.into()));
    }
    let mut file = AtomicFile::new(&opts.to).map_err(not_written)?;
    let written = export.write(file.file(), not_written)?;
    file.take_name(&opts.to).map_err(not_written)?;
    let shown = opts.to.display().to_string();
    let reply = json!({ "file": shown, "requests": written });
    cli.print(&reply, |style| {
        Panel::new("Usage exported")
            .copied("file", &shown)
            .line("requests", count(written, style))
            .render(style)
    })?;
    Ok(Exit::Done)
}

impl Format {
    fn of(file: &Path) -> Self {
        match file.extension().is_some_and(|name| name == "ndjson") {
            true => Self::Ndjson,
            false => Self::Csv,
        }
    }

    fn header(self) -> String {
        match self {
            Self::Csv => csv::line([
                "at",
                "key_id",
                "method",
                "path",
                "ip",
                "status",
                "latency_us",
                "refused",
            ]),
            Self::Ndjson => String::new(),
        }
    }

    fn line(self, usage: &Usage) -> Result<String, CliError> {
        Ok(match self {
            Self::Csv => csv::line([
                usage.at.to_string().as_str(),
                &usage.key_id.map_or(String::new(), |key| key.to_string()),
                usage.method.as_str(),
                &usage.path,
                &usage.ip.to_string(),
                &usage.status.to_string(),
                &usage.latency.as_micros().to_string(),
                usage.refused.map_or("", |reason| reason.as_str()),
            ]),
            Self::Ndjson => escaped_json(&serde_json::to_string(usage)?).into_owned() + "\n",
        })
    }
}

/// An export.
struct Export {
    format: Format,
    connection: GuardConnection,
    times: TimeRangeArgs,
    filter: RequestFilter,
}

impl Export {
    /// Writes all requests with a progress bar; returns their number.
    fn write(
        &mut self,
        out: &mut dyn Write,
        not_written: impl Fn(io::Error) -> CliError,
    ) -> Result<u64, CliError> {
        let bar = ProgressBar::new(self.total()?);
        if let Ok(style) = ProgressStyle::with_template("{bar:40} {human_pos}/{human_len}  {eta}") {
            bar.set_style(style);
        }
        let mut out = BufWriter::new(out);
        let header = self.format.header();
        out.write_all(header.as_bytes()).map_err(&not_written)?;
        let (mut written, mut from) = (0, 0);
        loop {
            let page = self.connection.execute(self.page_from(from))?;
            for usage in &page.requests {
                let line = self.format.line(usage)?;
                out.write_all(line.as_bytes()).map_err(&not_written)?;
            }
            written += page.requests.len() as u64;
            bar.set_position(written);
            match page.next {
                Some(next) => from = next,
                None => break,
            }
        }
        out.flush().map_err(not_written)?;
        bar.finish_and_clear();
        Ok(written)
    }

    fn page_from(&self, from: u64) -> ListRequests {
        let command = ListRequests {
            from,
            since: self.times.since.clone(),
            until: self.times.until.clone(),
            ..ListRequests::default()
        };
        command.filtered_by(self.filter.clone())
    }

    /// The number of requests, counted from single requests.
    fn total(&mut self) -> Result<u64, CliError> {
        let command = GetUsage {
            by: UsageGroup::Status,
            since: self.times.since.clone(),
            until: self.times.until.clone(),
            limit: Rows::default(),
            ..GetUsage::default()
        };
        let report = self
            .connection
            .execute(command.filtered_by(self.filter.clone()))?;
        Ok(report.requests)
    }
}
