//! The arguments and variables that give a field, for errors to name.

/// What the program calls the field that an error begins with, in a command such as `create-key`.
pub(super) fn named(message: String, command: &str) -> String {
    let Some((field, problem)) = message.split_once(": ") else {
        return message;
    };
    match flag(field, command) {
        Some(flag) => format!("{flag}: {problem}"),
        None => message,
    }
}

fn flag(field: &str, command: &str) -> Option<&'static str> {
    Some(match field {
        "admin_key" => "KEYGUARD_ADMIN_KEY or --admin-key-file",
        "allowed_ips" => "--allow-ip",
        "backend_deadline" => "--backend-deadline",
        "database_connections" => "--database-connections",
        "duration" if command == "rotate-key" => "--grace",
        "duration" => "--for",
        "expires_at" => "--expires-at",
        "ip" if matches!(command, "block" | "unblock") => "IP",
        "ip" => "--ip",
        "keys_stale_for" => "--keys-stale-for",
        "label" => "--label",
        "legacy_secret" => "KEYGUARD_LEGACY_SECRET or --legacy-secret-file",
        "limit" | "limits" => "--limit",
        "org_name" => "NAME",
        "path" => "--path",
        "prefix" => "--prefix",
        "rate_limit_per_minute" => "--rate-limit",
        "redis_url" => "--redis or KEYGUARD_REDIS",
        "scopes" => "--scopes",
        _ => return None,
    })
}

/// What to type after a setting was refused.
pub(super) fn mend(field: &str) -> String {
    match field {
        "admin_key" => "unset KEYGUARD_ADMIN_KEY    # one is derived from the secret then",
        "legacy_secret" => "unset KEYGUARD_LEGACY_SECRET",
        "redis_url" => "export KEYGUARD_REDIS=redis://127.0.0.1:6379",
        _ => "keyguard serve --help",
    }
    .to_owned()
}
