//! `resume-org`

use crate::admin::answer::Command;
use crate::cli::args::OrgArg;
use crate::cli::format::org_panel;
use crate::cli::{error::CliError, exit::Exit, settings::Cli};

pub(crate) type Opts = OrgArg;

pub(crate) fn run(cli: &Cli, OrgArg { org_name }: Opts) -> Result<Exit, CliError> {
    cli.execute(Command::ResumeOrg { org_name }, |org, look| {
        org_panel("Organization resumed", org, look)
    })
}
