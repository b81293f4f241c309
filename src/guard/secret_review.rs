//! Weaknesses of a secret.

use std::ffi::OsString;

use super::config::Config;
use crate::model::{Area, Condition, Secret};

/// The secret is in the list of processes.
pub(crate) const SECRET_ARGUMENT: &str = "the secret is an argument of a process, which other users of this machine \
    can see; use a private file, or the variable KEYGUARD_SECRET";

/// Returns each reason why others may know the secret of a process with these arguments. None quotes it.
pub(super) fn problems(
    config: &Config,
    secret: &Secret,
    arguments: impl Iterator<Item = OsString>,
) -> Vec<Condition> {
    let is_secret = |other: &Option<Secret>| {
        let other = other.as_ref();
        other.is_some_and(|other| other.expose() == secret.expose())
    };
    #[cfg(feature = "legacy")]
    let is_legacy = is_secret(&config.legacy_secret);
    #[cfg(not(feature = "legacy"))]
    let is_legacy = false;
    let checks = [
        (
            secret.is_weak(),
            "the secret is short or regular: whoever has a copy of the data can guess it, and then the \
             admin key, too; expected at least 32 random bytes",
        ),
        (
            is_secret(&config.admin_key),
            "the admin key is the secret itself, which then travels with requests; use another admin key, \
             or the one that is derived from the secret",
        ),
        (
            config.secret_as_admin_key,
            "the secret is accepted as admin key, so that it travels with requests; turn off \
             `Config::secret_as_admin_key`, and send the key that `keyguard admin-key` prints",
        ),
        (
            is_legacy,
            "the secret is that of the Python package, so that every machine that has run the package \
             knows it",
        ),
    ];
    let found = checks.into_iter().filter(|(is_found, _)| *is_found);
    let found = found.map(|(_, problem)| Condition::new(Area::Secret, problem));
    let argument =
        is_among(arguments, secret).then(|| Condition::new(Area::SecretArgument, SECRET_ARGUMENT));
    found.chain(argument).collect()
}

/// Whether an argument is the secret, or ends with `=` and the secret.
fn is_among(mut arguments: impl Iterator<Item = OsString>, secret: &Secret) -> bool {
    arguments.any(|argument| {
        let before = argument.as_encoded_bytes().strip_suffix(secret.expose());
        before.is_some_and(|before| matches!(before, [] | [.., b'=']))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const RANDOM: &str = "5f2c9a81d07be346a9f0c2487d1e5b3690fa7c2de81b4563";

    #[test]
    fn short_regular_and_reused_secrets_are_found() {
        let found = |secret: &str, change: fn(Config) -> Config| {
            let none = std::iter::empty();
            let found = problems(&change(Config::default()), &secret.into(), none).into_iter();
            let found: Vec<_> = found.map(|condition| condition.problem).collect();
            found.join("\n")
        };
        assert_eq!(found(RANDOM, |config| config), "");
        let other: fn(Config) -> Config = |config| config.admin_key("another admin key");
        assert_eq!(found(RANDOM, other), "");
        for weak in ["hunter2", &"ab".repeat(40), &RANDOM[..31]] {
            assert!(
                found(weak, |config| config).contains("short or regular"),
                "{weak}"
            );
        }
        type Change = fn(Config) -> Config;
        let reused: [(Change, &str); 2] = [
            (
                |config| config.admin_key(RANDOM),
                "the admin key is the secret",
            ),
            (
                |config| config.secret_as_admin_key(true),
                "accepted as admin key",
            ),
        ];
        for (change, problem) in reused {
            let found = found(RANDOM, change);
            assert!(
                found.contains(problem) && !found.contains(RANDOM),
                "{found}"
            );
        }
    }

    #[test]
    fn secrets_in_arguments_are_found() {
        let found = |argument: &str| {
            let arguments = ["keyguard", "--secret", argument, "serve"].map(OsString::from);
            problems(&Config::default(), &RANDOM.into(), arguments.into_iter())
        };
        for argument in [RANDOM, &format!("--secret={RANDOM}")] {
            let expected = Condition::new(Area::SecretArgument, SECRET_ARGUMENT);
            assert_eq!(found(argument), [expected]);
        }
        for other in ["", &format!("{RANDOM}.redb"), &format!("x{RANDOM}")] {
            assert_eq!(found(other), [], "{other}");
        }
    }

    #[cfg(feature = "legacy")]
    #[test]
    fn secret_of_the_python_package_is_found() {
        let config = Config::default().legacy_secret(RANDOM);
        let found = problems(&config, &RANDOM.into(), std::iter::empty());
        assert!(found[0].problem.contains("Python package"));
    }
}
