//! `demo`

use std::collections::VecDeque;
use std::net::SocketAddr;

use clap::Args;
use serde_json::json;

use super::stats::CLEAR;
use super::tail;
use crate::admin::command::{Command, TailUsage};
use crate::admin::{Admin, CreateKey, CreatedKey};
use crate::cli::format::limit_table;
use crate::cli::output::write_out;
use crate::cli::private_dir::private_dir;
use crate::cli::render::Table;
use crate::cli::settings::program_at;
use crate::cli::{error::CliError, exit::Exit, settings::Cli};
use crate::guard::Config;
use crate::keyguard::KeyGuard;
use crate::model::Usage;
use crate::serve::Demo;

const EXAMPLES: &str = "Examples:
  keyguard demo
  keyguard demo --listen 127.0.0.1:0";

#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Opts {
    /// The address to listen on: IP:PORT (port 0 for any free port)
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8000")]
    listen: SocketAddr,
}

/// The number of requests a minute that the key admits, few enough to exceed them by hand.
const PER_MINUTE: u32 = 5;

/// The number of requests in view.
const ROWS: usize = 12;

/// Runs a server with a data file of its own, which is removed at the end.
pub(crate) fn run(cli: &Cli, opts: &Opts) -> Result<Exit, CliError> {
    // First, so that no signal leaves the directory behind.
    let demo = Demo::new()?;
    let dir = private_dir("keyguard-demo-")?;
    let file = dir.path().join("keyguard.redb");
    let guard = KeyGuard::open(&file, Config::default())?;
    let admin = guard.admin();
    admin.create_org("demo")?;
    let key = CreateKey::new("demo", "first key").rate_limit_per_minute(PER_MINUTE);
    let mut view = View {
        cli,
        key: admin.create_key(key)?,
        program: program_at(&file),
        admin,
        next: None,
        requests: VecDeque::new(),
        shown: String::new(),
    };
    demo.serve(&guard, opts.listen, |address| view.update(address))?;
    guard.close()?;
    Ok(Exit::Done)
}

/// What the terminal shows.
struct View<'a> {
    cli: &'a Cli,
    key: CreatedKey,
    /// The start of a command line that works on the data file.
    program: String,
    admin: Admin,
    /// The number of the next request; `None` before the first update.
    next: Option<u64>,
    /// The latest requests.
    requests: VecDeque<Usage>,
    shown: String,
}

impl View<'_> {
    /// Shows new requests: in a terminal in a table, elsewhere as `tail` does.
    fn update(&mut self, address: SocketAddr) -> Result<(), CliError> {
        let command = TailUsage {
            from: self.next,
            ..TailUsage::default()
        };
        let reply = command.run(&self.admin)?;
        let is_first = self.next.replace(reply.next).is_none();
        if !self.cli.style.is_terminal || self.cli.json {
            if is_first {
                let key = self.key.raw_key.expose();
                let start = json!({ "address": address, "raw_key": key });
                self.cli.print(&start, |_| self.welcome(address))?;
            }
            return tail::print(self.cli, &reply);
        }
        self.requests.extend(reply.requests);
        let old = self.requests.len().saturating_sub(ROWS);
        self.requests.drain(..old);
        let text = self.welcome(address) + &self.tables()?;
        if text != self.shown {
            write_out(&[CLEAR, text.as_bytes()].concat())?;
            self.shown = text;
        }
        Ok(())
    }

    fn welcome(&self, address: SocketAddr) -> String {
        let (key, id) = (self.key.raw_key.expose(), self.key.key.id);
        let program = &self.program;
        format!(
            "This server admits {PER_MINUTE} requests a minute with this key, and none without a key:\n\n    \
             {key}\n\n\
             Type in another terminal, and look here:\n\n    \
             curl -i http://{address}/\n    \
             curl -i -H 'X-API-Key: {key}' http://{address}/\n    \
             {program} revoke-key {id}\n\n\
             Ctrl-C ends the server and removes its data.\n\
             listening on {address}\n"
        )
    }

    /// The limits of the key and the latest requests.
    fn tables(&self) -> Result<String, CliError> {
        let limits = self.admin.key_limits(self.key.key.id)?;
        let mut table = Table::new(&["time", ">status", "method", "~path", ">key", "~outcome"]);
        for usage in &self.requests {
            let at = usage.at.to_string();
            let key = usage.key_id.map_or("-".to_owned(), |key| key.to_string());
            let reason = usage.refused.map(|reason| reason.to_string());
            table.row([
                at.get(11..19).unwrap_or(&at).to_owned(),
                usage.status.to_string(),
                usage.method.as_str().to_owned(),
                usage.path.clone(),
                key,
                reason.unwrap_or_else(|| "admitted".to_owned()),
            ]);
        }
        let style = self.cli.style;
        Ok(limit_table(&limits, style).render(style) + &table.render(style))
    }
}
