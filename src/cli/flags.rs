//! The arguments that set a field, for errors to name.

/// Replaces the name of the field at the start of an error by the argument of `command` that sets it.
pub(super) fn with_argument(message: String, command: &clap::Command) -> String {
    let Some((field, problem)) = message.split_once(": ") else {
        return message;
    };
    match argument(field, command) {
        Some(argument) => format!("{argument}: {problem}"),
        None => message,
    }
}

fn argument(field: &str, command: &clap::Command) -> Option<String> {
    let known = match field {
        "admin_key" => "KEYGUARD_ADMIN_KEY or --admin-key-file",
        "legacy_secret" => "KEYGUARD_LEGACY_SECRET or --legacy-secret-file",
        "redis_url" => "--redis or KEYGUARD_REDIS",
        _ => return declared(field, command),
    };
    Some(known.to_owned())
}

/// Returns the argument that has the name of the field as its id.
fn declared(field: &str, command: &clap::Command) -> Option<String> {
    let mut arguments = command.get_arguments();
    let argument = arguments.find(|argument| argument.get_id() == field)?;
    match argument.get_long() {
        Some(long) => Some(format!("--{long}")),
        None => Some(argument.get_value_names()?.first()?.to_string()),
    }
}
