//! `limits`

use crate::admin::command::{GetIpLimits, GetKeyLimits};
use crate::cli::args::KeyOrIp;
use crate::cli::{error::CliError, exit::Exit, settings::Cli};

pub(crate) const EXAMPLES: &str = "Examples:
  keyguard limits 7
  keyguard limits --ip 192.0.2.7";

pub(crate) type Opts = KeyOrIp;

pub(crate) fn run(cli: &Cli, opts: Opts) -> Result<Exit, CliError> {
    opts.print_limits(cli, |id| GetKeyLimits { id }, |ip| GetIpLimits { ip })
}
