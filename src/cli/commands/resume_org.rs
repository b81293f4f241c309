//! `resume-org`

use crate::admin::command::ResumeOrg;
use crate::cli::args::OrgArg;
use crate::cli::{error::CliError, exit::Exit, settings::Cli};

pub(crate) const EXAMPLES: &str = "Examples:
  keyguard resume-org acme";

pub(crate) type Opts = OrgArg;

pub(crate) fn run(cli: &Cli, org: Opts) -> Result<Exit, CliError> {
    org.change(cli, "Organization resumed", |id| ResumeOrg { id })
}
