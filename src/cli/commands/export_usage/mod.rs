//! `export-usage`

#[cfg_attr(not(feature = "parquet"), path = "no_parquet.rs")]
mod parquet;
mod text;

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use self::parquet::Parquet;
use self::text::{Csv, Ndjson};
use super::usage::warn_of_omitted;
use crate::admin::command::{GetUsage, ListRequests, RequestFilter, Rows};
use crate::cli::args::{RequestFilterArgs, TimeRangeArgs};
use crate::cli::connection::GuardConnection;
use crate::cli::format::count;
use crate::cli::render::Panel;
use crate::cli::{error::CliError, exit::Exit, settings::Cli};
use crate::model::{Usage, UsageGroup};
use crate::sys::AtomicFile;

const EXAMPLES: &str = "Examples:
  keyguard export-usage --to november.csv --since 2026-11-01T00:00:00Z
  keyguard export-usage --to refused.ndjson --refused --since 24h
  keyguard export-usage --to november.parquet
  keyguard export-usage --to - --key 7 | gzip > key7.csv.gz

Requests with known keys are exported, as long as they are kept.";

#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Opts {
    /// The file to create; `-` for standard output
    #[arg(long, value_name = "FILE")]
    to: PathBuf,
    /// The format [default: that of the file's extension; csv without one]
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
    /// Apache Parquet, with the cargo feature `parquet`
    Parquet,
}

pub(crate) fn run(cli: &Cli, opts: Opts) -> Result<Exit, CliError> {
    let format = match opts.format {
        Some(format) => format,
        None => Format::of(&opts.to)?,
    };
    if format == Format::Parquet && !parquet::IS_COMPILED {
        return Err(CliError::NoParquet);
    }
    let mut export = Export {
        format,
        connection: cli.connect()?,
        times: opts.times,
        filter: opts.filter.into(),
    };
    if opts.to == Path::new("-") {
        export.write(cli, &mut io::stdout(), CliError::Output)?;
        return Ok(Exit::Done);
    }
    let not_written = |error: io::Error| CliError::UsageFile {
        file: opts.to.clone(),
        source: match error.kind() {
            io::ErrorKind::AlreadyExists => {
                io::Error::new(error.kind(), "it exists; give another path")
            }
            _ => error,
        },
    };
    if opts.to.exists() {
        return Err(not_written(io::ErrorKind::AlreadyExists.into()));
    }
    let mut file = AtomicFile::new(&opts.to).map_err(not_written)?;
    let written = export.write(cli, file.file(), not_written)?;
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
    /// Returns the format of a file by its extension.
    fn of(file: &Path) -> Result<Self, CliError> {
        let extension = file.extension().unwrap_or("csv".as_ref());
        let format = Self::from_str(&extension.to_string_lossy(), true);
        format.map_err(|_| CliError::UnknownFormat(file.into()))
    }

    /// Returns a writer of rows.
    fn begin<'a>(self, out: &'a mut (dyn Write + Send)) -> io::Result<Box<dyn RowWriter + 'a>> {
        Ok(match self {
            Self::Csv => Box::new(Csv::new(out)?),
            Self::Ndjson => Box::new(Ndjson::new(out)),
            Self::Parquet => Box::new(Parquet::new(out)?),
        })
    }
}

/// Writes requests in one format.
trait RowWriter {
    fn add(&mut self, usage: Usage) -> io::Result<()>;

    /// Writes what is buffered, and the end of the format.
    fn finish(self: Box<Self>) -> io::Result<()>;
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
        cli: &Cli,
        out: &mut (dyn Write + Send),
        not_written: impl Fn(io::Error) -> CliError,
    ) -> Result<u64, CliError> {
        let bar = ProgressBar::new(self.total(cli)?);
        if let Ok(style) = ProgressStyle::with_template("{bar:40} {human_pos}/{human_len}  {eta}") {
            bar.set_style(style);
        }
        let mut rows = self.format.begin(out).map_err(&not_written)?;
        let (mut written, mut from) = (0, 0);
        loop {
            let page = self.connection.execute(self.page_from(from))?;
            written += page.requests.len() as u64;
            for usage in page.requests {
                rows.add(usage).map_err(&not_written)?;
            }
            bar.set_position(written);
            match page.next {
                Some(next) => from = next,
                None => break,
            }
        }
        rows.finish().map_err(not_written)?;
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

    /// The number of requests, counted from individual requests. Warns of those that cannot be read.
    fn total(&mut self, cli: &Cli) -> Result<u64, CliError> {
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
        warn_of_omitted(cli, &report);
        Ok(report.requests)
    }
}
