//! `replay`: decides the requests of an access log under another policy.

mod access_log;
mod report;
mod sandbox;

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;

use clap::Args;

use self::access_log::LoggedRequest;
use self::report::{RefusedRequest, Report};
use self::sandbox::Sandbox;
use crate::cli::{error::CliError, exit::Exit, settings::Cli};
use crate::policy;

const EXAMPLES: &str = "Examples:
  keyguard replay /var/log/nginx/access.log --policy keyguard.toml
  zcat access.log.1.gz | keyguard replay - --policy keyguard.toml --each";

#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Opts {
    /// An access log in the common or combined format, or `-` for standard input. Its user field names
    /// the key: by its id or its whole prefix
    #[arg(value_name = "ACCESS_LOG")]
    log: PathBuf,
    /// The policy to apply
    #[arg(long, value_name = "FILE")]
    policy: PathBuf,
    /// Print each refusal instead of a summary
    #[arg(long)]
    each: bool,
}

pub(crate) fn run(cli: &Cli, opts: &Opts) -> Result<Exit, CliError> {
    let policy = policy::read(&opts.policy)?;
    let unreadable = |source| CliError::Log {
        argument: "ACCESS_LOG",
        file: opts.log.clone(),
        source,
    };
    let lines: Box<dyn BufRead> = match opts.log.as_os_str() == "-" {
        true => Box::new(std::io::stdin().lock()),
        false => Box::new(BufReader::new(File::open(&opts.log).map_err(unreadable)?)),
    };
    let mut sandbox: Option<Sandbox> = None;
    let mut report = Report::default();
    for (number, line) in (1..).zip(lines.split(b'\n')) {
        let line = line.map_err(unreadable)?;
        let line = String::from_utf8_lossy(&line);
        let Some(request) = LoggedRequest::parse(&line) else {
            report.add_unreadable(number);
            continue;
        };
        let sandbox = match &mut sandbox {
            Some(sandbox) => sandbox,
            none => none.insert(Sandbox::new(cli, policy.clone(), request.time)?),
        };
        report.requests += 1;
        match sandbox.decide(&request) {
            Ok(grant) => grant.finish(200),
            Err(denial) => {
                let refusal =
                    RefusedRequest::new(number, &request, sandbox.key_name(&request), &denial);
                if opts.each {
                    refusal.print(cli)?;
                }
                report.add(refusal);
            }
        }
    }
    if report.requests == 0 {
        return Err(CliError::NoRequests {
            file: opts.log.clone(),
            lines: report.unreadable,
        });
    }
    if !opts.each {
        report.print(cli)?;
    }
    Ok(Exit::Done)
}
