//! `create-org`

use crate::admin::command::CreateOrg;
use crate::cli::args::OrgArg;
use crate::cli::format::org_panel;
use crate::cli::{error::CliError, exit::Exit, settings::Cli};

pub(crate) const EXAMPLES: &str = "Examples:
  keyguard create-org acme
  keyguard create-org \"Acme Corp\"";

pub(crate) type Opts = OrgArg;

pub(crate) fn run(cli: &Cli, OrgArg { org_name }: Opts) -> Result<Exit, CliError> {
    cli.execute(CreateOrg { org_name }, |reply, style| {
        org_panel("Organization created", &reply.org, style)
    })
}
