//! `update-org`

use clap::Args;

use crate::admin::UpdateOrg;
use crate::cli::args::{OrgArg, replacement};
use crate::cli::{error::CliError, exit::Exit, settings::Cli};

const EXAMPLES: &str = "Examples:
  keyguard update-org acme --limit 1000/s --limit \"10000000 monthly\"
  keyguard update-org acme --limit none";

#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Opts {
    #[command(flatten)]
    org: OrgArg,
    /// A limit that all keys of the organization share, such as 1000/s; may be repeated. Replaces all
    /// of its limits; `none` removes them
    #[arg(long = "limit", value_name = "LIMIT|none", required = true)]
    limits: Vec<String>,
}

pub(crate) fn run(cli: &Cli, Opts { org, limits }: Opts) -> Result<Exit, CliError> {
    let limits = replacement(limits, "none").unwrap_or_default();
    org.change(cli, "Organization updated", |id| {
        UpdateOrg::new(id).limits(limits)
    })
}
