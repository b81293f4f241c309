//! Signatures of the specification Standard Webhooks.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::model::Secret;

const PREFIX: &str = "whsec_";

/// The secrets that sign events. Several ones are used while receivers change from one to the next.
#[derive(Clone)]
pub(super) struct SigningSecrets(Vec<Zeroizing<Vec<u8>>>);

impl SigningSecrets {
    /// Reads secrets of the form `whsec_` and base64 of 24 to 64 bytes, with blanks or ends of lines between. The
    /// error does not quote them.
    pub(super) fn parse(text: &Secret) -> Result<Self, &'static str> {
        const EXPECTED: &str =
            "expected `whsec_` and 24 to 64 bytes as base64, or several such secrets on lines";

        let text = std::str::from_utf8(text.expose()).map_err(|_| EXPECTED)?;
        let secrets = text.split_ascii_whitespace().map(|secret| {
            let bytes = STANDARD.decode(secret.strip_prefix(PREFIX)?).ok()?;
            (24..=64)
                .contains(&bytes.len())
                .then(|| Zeroizing::new(bytes))
        });
        let secrets: Vec<_> = secrets.collect::<Option<_>>().ok_or(EXPECTED)?;
        match secrets.is_empty() {
            true => Err(EXPECTED),
            false => Ok(Self(secrets)),
        }
    }

    /// Generates a secret of 32 random bytes, in the form that [`Self::parse`] reads.
    pub(super) fn generate() -> std::io::Result<Secret> {
        let mut bytes = Zeroizing::new([0; 32]);
        getrandom::fill(bytes.as_mut()).map_err(std::io::Error::other)?;
        let text = Zeroizing::new(STANDARD.encode(bytes.as_slice()));
        Ok(Secret::from(format!("{PREFIX}{}", text.as_str())))
    }

    /// Returns the value of `webhook-signature`: one signature for each secret. `timestamp` is in seconds since the
    /// Unix epoch.
    pub(super) fn sign(&self, id: &str, timestamp: u64, body: &str) -> String {
        let signatures = self.0.iter().filter_map(|secret| {
            let mut mac = Hmac::<Sha256>::new_from_slice(secret).ok()?;
            for part in [id, ".", &timestamp.to_string(), ".", body] {
                mac.update(part.as_bytes());
            }
            let signature = mac.finalize().into_bytes();
            Some(format!("v1,{}", STANDARD.encode(signature)))
        });
        signatures.collect::<Vec<_>>().join(" ")
    }
}

impl fmt::Debug for SigningSecrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningSecrets(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    const SIGNATURE: &str = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";

    fn parsed(text: &str) -> Result<SigningSecrets, &'static str> {
        SigningSecrets::parse(&Secret::from(text))
    }

    fn signed(secrets: &str) -> String {
        let id = "msg_p5jXN8AQM9LWM0D4loKWxJek";
        let secrets = parsed(secrets).unwrap();
        secrets.sign(id, 1_614_265_330, r#"{"test": 2432232314}"#)
    }

    /// The vector of the specification's reference implementations.
    #[test]
    fn signature_is_that_of_the_specification() {
        assert_eq!(signed(SECRET), SIGNATURE);
    }

    #[test]
    fn each_secret_signs() {
        let other = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
        let both = signed(&format!("{other}\n{SECRET}\n"));
        assert_eq!(both, format!("{} {SIGNATURE}", signed(other)));
    }

    #[test]
    fn generated_secrets_are_valid_and_differ() {
        let secrets = [(); 2].map(|()| SigningSecrets::generate().unwrap());
        assert_ne!(secrets[0].expose(), secrets[1].expose());
        for secret in &secrets {
            assert_eq!(SigningSecrets::parse(secret).unwrap().0[0].len(), 32);
        }
    }

    #[test]
    fn invalid_secrets_are_refused_and_not_shown() {
        for text in [
            "",
            " \n",
            "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
            "whsec_",
            "whsec_c2hvcnQ=",
            "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaS!",
            "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw other",
        ] {
            let error = parsed(text).unwrap_err();
            assert!(!error.contains("MfKQ"), "{error}");
        }
        assert!(!format!("{:?}", parsed(SECRET).unwrap()).contains("MfKQ"));
    }
}
