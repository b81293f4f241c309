//! `suspend-org`

use crate::admin::command::SuspendOrg;
use crate::cli::args::OrgArg;
use crate::cli::{error::CliError, exit::Exit, settings::Cli};

pub(crate) const EXAMPLES: &str = "Examples:
  keyguard suspend-org acme";

pub(crate) type Opts = OrgArg;

pub(crate) fn run(cli: &Cli, org: Opts) -> Result<Exit, CliError> {
    org.change(cli, "Organization suspended", |id| SuspendOrg { id })
}
