//! `suspend-org`

use crate::admin::command::SuspendOrg;
use crate::cli::args::OrgArg;
use crate::cli::format::org_panel;
use crate::cli::{error::CliError, exit::Exit, settings::Cli};

pub(crate) type Opts = OrgArg;

pub(crate) fn run(cli: &Cli, OrgArg { org_name }: Opts) -> Result<Exit, CliError> {
    let mut connection = cli.connect()?;
    let id = connection.org_id(org_name)?;
    cli.execute_in(connection, SuspendOrg { id }, |reply, style| {
        org_panel("Organization suspended", &reply.org, style)
    })
}
