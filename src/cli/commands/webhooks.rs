//! `webhooks`: the log of deliveries to webhooks, a test, and another try.

use std::thread::sleep;
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};

use crate::admin::command::{ListDeliveries, Redeliver, Rows, SendTestEvent};
use crate::cli::connection::GuardConnection;
use crate::cli::format::short_time;
use crate::cli::render::{OutputStyle, Table};
use crate::cli::{error::CliError, exit::Exit, pages, settings::Cli};
use crate::model::{Delivery, DeliveryState};

const EXAMPLES: &str = "Examples:
  keyguard webhooks
  keyguard webhooks --rows 1000 --json
  keyguard webhooks test && keyguard webhooks redeliver 17";

const TEST_EXAMPLES: &str = "Examples:
  keyguard webhooks test
  keyguard webhooks test --json

The exit code is 0 if all webhooks of the process that holds the data file accepted the event.";

const REDELIVER_EXAMPLES: &str = "Examples:
  keyguard webhooks redeliver 17";

/// How long a test waits for the answers.
const ANSWERED_WITHIN: Duration = Duration::from_secs(20);
/// The pause between two looks at the deliveries.
const PAUSE: Duration = Duration::from_millis(50);

#[derive(Args)]
#[command(after_help = EXAMPLES, args_conflicts_with_subcommands = true)]
pub(crate) struct Opts {
    /// Only deliveries before the one of this number
    #[arg(long, value_name = "NUMBER")]
    before: Option<u64>,
    /// The greatest number of rows to list
    #[arg(long, value_name = "N", default_value_t = 50)]
    rows: usize,
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(Subcommand)]
enum Action {
    /// Send a test event to all webhooks of `keyguard serve`, and print the answers
    #[command(after_help = TEST_EXAMPLES)]
    Test,
    /// Send an event once more, with the same id
    #[command(after_help = REDELIVER_EXAMPLES)]
    Redeliver {
        /// The number of the delivery, as `keyguard webhooks` lists it
        #[arg(value_name = "NUMBER")]
        number: u64,
    },
}

pub(crate) fn run(cli: &Cli, opts: Opts) -> Result<Exit, CliError> {
    match opts.action {
        None => list(cli, &opts),
        Some(Action::Test) => test(cli),
        Some(Action::Redeliver { number }) => cli
            .execute(Redeliver { id: number }, |delivery, style| {
                table(std::slice::from_ref(delivery), style).render(style)
            }),
    }
}

fn list(cli: &Cli, opts: &Opts) -> Result<Exit, CliError> {
    let deliveries = cli.list(|connection| {
        let pages = pages::pages(
            connection,
            |delivery: &Delivery| delivery.id,
            |last| ListDeliveries {
                before: last.or(opts.before),
                limit: Rows::try_from(opts.rows).unwrap_or_default(),
            },
        );
        pages::items(pages).take(opts.rows).collect()
    })?;
    cli.print(&deliveries, |style| {
        table(&deliveries, style).render_or("No events.", style)
    })?;
    Ok(Exit::Done)
}

fn test(cli: &Cli) -> Result<Exit, CliError> {
    let mut connection = cli.connect()?;
    let mut sent = connection.execute(SendTestEvent {})?;
    let since = Instant::now();
    while sent.iter().any(|delivery| delivery.attempts == 0) && since.elapsed() < ANSWERED_WITHIN {
        sleep(PAUSE);
        update(&mut connection, &mut sent)?;
    }
    drop(connection);
    cli.print(&sent, |style| table(&sent, style).render(style))?;
    let is_delivered = |delivery: &Delivery| delivery.state == DeliveryState::Delivered;
    Ok(match sent.iter().all(is_delivered) {
        true => Exit::Done,
        false => Exit::Refused,
    })
}

/// Reads the present state of deliveries.
fn update(connection: &mut GuardConnection, deliveries: &mut [Delivery]) -> Result<(), CliError> {
    for delivery in deliveries {
        let command = ListDeliveries {
            before: Some(delivery.id + 1),
            limit: Rows::try_from(1).unwrap_or_default(),
        };
        let found = connection.execute(command)?.into_iter().next();
        if let Some(found) = found.filter(|found| found.id == delivery.id) {
            *delivery = found;
        }
    }
    Ok(())
}

fn table(deliveries: &[Delivery], style: OutputStyle) -> Table {
    let mut table = Table::new(&[
        ">no", "at", "event", "state", ">tries", "~answer", "~webhook",
    ]);
    for delivery in deliveries {
        table.row([
            delivery.id.to_string(),
            short_time(delivery.at, style),
            delivery.kind.clone(),
            delivery.state.as_str().to_owned(),
            delivery.attempts.to_string(),
            delivery.answer.clone().unwrap_or_default(),
            delivery.url.clone(),
        ]);
    }
    table
}
