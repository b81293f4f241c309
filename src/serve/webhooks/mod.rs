//! Webhooks: signed events for other servers, from the outbox of the data file, after the specification
//! [Standard Webhooks](https://www.standardwebhooks.com).

mod receiver;
mod schedule;
mod signature;
mod status;
#[cfg(test)]
mod tests;
mod url;
mod worker;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

use self::receiver::Receiver;
use self::signature::SigningSecrets;
pub(super) use self::status::WebhookStatus;
use self::url::WebhookUrl;
use self::worker::Worker;
use super::error::ServeError;
use super::tls_client;
use crate::guard::{read_secret, webhook_secret_path, write_secret};
use crate::keyguard::KeyGuard;
use crate::model::Secret;
use crate::store::{OpenError, WebhookChange};

#[derive(Clone, Debug, Args)]
pub(crate) struct WebhookSettings {
    /// Send signed events to this URL, such as limits that are nearly used up and addresses that are locked out; may
    /// be repeated. The guide lists the events. Not with a database or Redis. Other users of this machine can see a
    /// URL in the process list: prefer the variable for one that is a secret. It may hold several, with spaces between
    #[arg(
        long = "webhook",
        value_name = "URL",
        env = "KEYGUARD_WEBHOOKS",
        hide_env_values = true,
        value_delimiter = ' '
    )]
    // Not parsed by clap, whose errors show the value.
    webhooks: Vec<String>,
    /// A file that holds the secret of the signatures, `whsec_` and base64, or several on lines [default: the name of
    /// the data file with `.webhook-secret` appended, which is created if it is absent]
    #[arg(long, value_name = "FILE", requires = "webhooks")]
    webhook_secret_file: Option<PathBuf>,
    /// Send events to loopback and private addresses, too, and without TLS to `http://` URLs
    #[arg(long, requires = "webhooks")]
    webhook_allow_private: bool,
    /// Trust these certificate authorities, as PEM, instead of the public ones
    #[arg(long, value_name = "FILE", requires = "webhooks")]
    webhook_ca: Option<PathBuf>,
}

impl WebhookSettings {
    /// Reads the secret and the certificates. `file` is the data file, links followed; `None` for a database or with
    /// Redis. Returns `None` without webhooks.
    pub(crate) fn prepare(&self, file: Option<&Path>) -> Result<Option<Webhooks>, ServeError> {
        if self.webhooks.is_empty() {
            return Ok(None);
        }
        let file = file.ok_or(ServeError::WebhooksOnServer)?;
        let mut urls: Vec<WebhookUrl> = Vec::new();
        for url in &self.webhooks {
            let url: WebhookUrl = url.parse().map_err(ServeError::InvalidWebhook)?;
            if !urls.contains(&url) {
                urls.push(url);
            }
        }
        if let Some(url) = urls.iter().find(|url| !url.is_encrypted)
            && !self.webhook_allow_private
        {
            return Err(ServeError::UnencryptedWebhook(url.origin().to_string()));
        }
        let new_secret = match self.webhook_secret_file {
            Some(_) => None,
            None => Some(webhook_secret_path(file)).filter(|path| !path.exists()),
        };
        Ok(Some(Webhooks {
            urls,
            new_secret,
            secrets: self.secrets(file)?,
            tls: tls_client::connector("--webhook-ca", self.webhook_ca.as_deref())?,
            allow_private: self.webhook_allow_private,
        }))
    }

    fn secrets(&self, data: &Path) -> Result<SigningSecrets, ServeError> {
        let (path, read) = match &self.webhook_secret_file {
            Some(path) => (path.clone(), read_secret(path, data)),
            None => {
                let path = webhook_secret_path(data);
                let read = found_or_created(&path, data);
                (path, read)
            }
        };
        let secret = read.map_err(ServeError::WebhookSecret)?;
        SigningSecrets::parse(&secret)
            .map_err(|expected| ServeError::InvalidWebhookSecret { path, expected })
    }
}

fn found_or_created(path: &Path, data: &Path) -> Result<Secret, OpenError> {
    match read_secret(path, data) {
        Err(OpenError::SecretFile { source, .. })
            if source.kind() == std::io::ErrorKind::NotFound =>
        {
            write_secret(path, data, SigningSecrets::generate())
        }
        read => read,
    }
}

/// The webhooks of a server.
#[derive(Clone)]
pub(crate) struct Webhooks {
    urls: Vec<WebhookUrl>,
    secrets: SigningSecrets,
    /// The file of the secret, if it was created.
    new_secret: Option<PathBuf>,
    tls: TlsConnector,
    allow_private: bool,
}

impl Webhooks {
    pub(crate) fn urls(&self) -> Vec<String> {
        let urls = self.urls.iter();
        urls.map(|url| url.as_str().to_owned()).collect()
    }

    /// Starts a task for each webhook, and ends deliveries to webhooks that are no longer configured.
    pub(super) fn start(
        self,
        guard: &KeyGuard,
        tasks: &mut JoinSet<()>,
        status: &Arc<WebhookStatus>,
        end: &watch::Receiver<()>,
    ) {
        self.warn_of_new_secret(guard);
        let urls = self.urls();
        let of = guard.clone();
        tasks.spawn_blocking(move || {
            let pending = of.inner.store().pending_webhooks().unwrap_or_default();
            let others: Vec<_> = pending
                .into_iter()
                .filter(|url| !urls.contains(url))
                .collect();
            if !others.is_empty() {
                let answer = "the webhook is no longer configured".to_owned();
                let change = WebhookChange::Cancel {
                    urls: others,
                    answer,
                };
                // If that fails, they stay pending until the next start.
                let _ = of.inner.store().change_deliveries(&change);
            }
        });
        for url in self.urls {
            let receiver = Receiver {
                url,
                secrets: self.secrets.clone(),
                tls: self.tls.clone(),
                allow_private: self.allow_private,
            };
            let worker = Worker::new(guard.clone(), receiver, Arc::clone(status));
            tasks.spawn(worker.run(end.clone()));
        }
    }

    /// Warns of a secret that replaces a lost one: earlier events were signed with another.
    fn warn_of_new_secret(&self, guard: &KeyGuard) {
        let Some(file) = &self.new_secret else {
            return;
        };
        let earlier = guard.inner.store().deliveries(None, usize::MAX);
        if earlier.is_ok_and(|earlier| earlier.iter().any(|delivery| delivery.attempts > 0)) {
            let warning = format!(
                "the secret of webhooks in `{}` was missing and was created anew, but earlier events were signed with \
                 another: give receivers the new one, or put the file back and start the server again",
                file.display()
            );
            guard.inner.warnings().add(&warning);
        }
    }

    pub(super) fn status(webhooks: Option<&Self>) -> WebhookStatus {
        WebhookStatus::of(webhooks.map_or(&[][..], |webhooks| webhooks.urls.as_slice()))
    }
}
