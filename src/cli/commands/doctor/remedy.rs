//! The next command for a condition.

use std::path::Path;

use crate::cli::settings::Cli;
use crate::model::{Area, Condition};
use crate::sys::shell::quoted;

/// Returns the command to type.
pub(super) fn of(cli: &Cli, condition: &Condition, policy_file: Option<&Path>) -> String {
    let program = cli.program();
    let policy = policy_file.map(|file| quoted(&file.display().to_string()));
    match condition.area {
        Area::SecretArgument => format!("{program} --secret-file FILE …"),
        Area::LegacySecret => {
            format!("KEYGUARD_LEGACY_SECRET=… {program} serve    # or the program that embeds it")
        }
        Area::AdminKey => {
            format!("{program} list-blocks    # then {program} unblock ADDRESS, if it is yours")
        }
        Area::Secret => format!(
            "{program} admin-key    # or begin with a random secret: keyguard --db NEW.redb init"
        ),
        Area::Files => format!("ls -l {}*", quoted(&cli.db.display().to_string())),
        Area::Webhooks => format!("{program} webhooks"),
        Area::Damage => format!("{program} verify"),
        Area::Backup => "ls -ld DIR; df -h DIR    # that of --backup-dir".to_owned(),
        Area::Data | Area::Disk => "df -h .    # in the directory of the data file".to_owned(),
        Area::UnusedKeys => match condition.key {
            Some(id) => format!("{program} revoke-key {id}    # unless it is still needed"),
            None => format!("{program} list-keys"),
        },
        Area::ExpiringKeys => match condition.key {
            Some(id) => format!("{program} update-key {id} --expires-at TIME"),
            None => format!("{program} list-keys"),
        },
        Area::LeakReports => {
            "kill -HUP PID    # of the server, after --leak-keys has the current keys".to_owned()
        }
        Area::LeakedKeys => {
            format!("{program} audit    # has all finds; then rotate-key or create-key")
        }
        Area::Policy => match policy {
            Some(file) => format!("keyguard policy check {file}    # then {program} reload"),
            None => format!("{program} reload    # after the policy is corrected"),
        },
        Area::Proxy => match policy {
            Some(file) => format!("{program} reload    # after {file} names the proxy"),
            None => "keyguard policy example    # shows the fields that name a proxy".to_owned(),
        },
        Area::Clock => {
            "timedatectl status    # then set the clock, or start its synchronization".to_owned()
        }
        Area::Usage => format!("{program} stats --watch"),
        Area::Redis => {
            "redis-cli -u \"$KEYGUARD_REDIS\" INFO    # shows its role, its memory and its maxmemory_policy"
                .to_owned()
        }
        Area::Postgres => {
            "psql \"$KEYGUARD_DB\" -c 'SELECT 1'    # a pooler before it must keep sessions"
                .to_owned()
        }
        Area::OpenFiles => "ulimit -n 65536    # before the process starts".to_owned(),
        Area::Process => format!("{program} stats"),
    }
}
