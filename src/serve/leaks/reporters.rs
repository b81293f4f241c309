//! The public keys of reporters.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use arc_swap::ArcSwap;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;
use ring::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use serde::Deserialize;
use tokio_rustls::rustls::pki_types::SubjectPublicKeyInfoDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;

#[cfg(unix)]
use crate::sys::ownership::{alterability, open_verified, owner_of};

/// The largest size of the file.
const MAX_BYTES: u64 = 1 << 20;

pub(super) const SIGNATURE: &str = "Github-Public-Key-Signature";
const IDENTIFIER: &str = "Github-Public-Key-Identifier";

/// The public keys in a file.
pub(super) struct Reporters {
    file: PathBuf,
    /// The owner of the data file, who may also own this file.
    owner: Option<u32>,
    keys: ArcSwap<PublicKeys>,
}

impl Reporters {
    /// Reads the file; the error names it. `data` is the data file, or the URL of a database.
    pub(super) fn read(file: PathBuf, data: &Path) -> Result<Self, String> {
        let owner = owner_of(data);
        let keys = ArcSwap::from_pointee(PublicKeys::read(&file, owner)?);
        Ok(Self { file, owner, keys })
    }

    /// Reads the file again. An invalid one changes nothing.
    pub(super) fn reload(&self) -> Result<(), String> {
        let keys = PublicKeys::read(&self.file, self.owner)?;
        self.keys.store(keys.into());
        Ok(())
    }

    pub(super) fn file(&self) -> &Path {
        &self.file
    }

    /// Whether one of them has signed the body. It takes as long for an unknown identifier as for a known one.
    pub(super) fn have_signed(&self, headers: &HeaderMap, body: &[u8]) -> bool {
        let keys = self.keys.load();
        let signature = only(headers, SIGNATURE).and_then(|text| STANDARD.decode(text).ok());
        let named = only(headers, IDENTIFIER).and_then(|name| keys.named(name));
        let key = UnparsedPublicKey::new(
            &ECDSA_P256_SHA256_ASN1,
            named.unwrap_or(&keys.first).point.as_slice(),
        );
        let is_valid = key.verify(body, &signature.unwrap_or_default()).is_ok();
        is_valid && named.is_some()
    }

    /// Whether a request names a key that is not there.
    pub(super) fn lack_key(&self, headers: &HeaderMap) -> bool {
        let name = only(headers, IDENTIFIER);
        name.is_some_and(|name| self.keys.load().named(name).is_none())
    }
}

/// Returns the value of a header field that occurs once.
fn only<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h [u8]> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => Some(value.as_bytes()),
        _ => None,
    }
}

/// At least one public key.
struct PublicKeys {
    first: PublicKey,
    others: Vec<PublicKey>,
}

struct PublicKey {
    identifier: String,
    /// The uncompressed point.
    point: Vec<u8>,
}

/// The file. Further fields are ignored, so that a key which is not the current one counts, too.
#[derive(Deserialize)]
struct KeyFile {
    public_keys: Vec<KeyInFile>,
}

#[derive(Deserialize)]
struct KeyInFile {
    key_identifier: String,
    /// PEM.
    key: String,
}

impl PublicKeys {
    fn read(file: &Path, owner: Option<u32>) -> Result<Self, String> {
        let keys = read_public(file, owner).and_then(|text| Self::parse(&text));
        keys.map_err(|problem| format!("`{}`: {problem}", file.display()))
    }

    fn parse(text: &[u8]) -> Result<Self, String> {
        let file: KeyFile = serde_json::from_slice(text).map_err(|error| {
            format!(
                "expected the JSON of https://api.github.com/meta/public_keys/secret_scanning: {error}"
            )
        })?;
        let keys = file.public_keys.into_iter().map(PublicKey::try_from);
        let mut keys = keys.collect::<Result<Vec<_>, _>>()?.into_iter();
        let first = keys.next().ok_or("`public_keys` is empty")?;
        Ok(Self {
            first,
            others: keys.collect(),
        })
    }

    fn named(&self, identifier: &[u8]) -> Option<&PublicKey> {
        let mut keys = std::iter::once(&self.first).chain(&self.others);
        keys.find(|key| key.identifier.as_bytes() == identifier)
    }
}

fn read_public(path: &Path, owner: Option<u32>) -> Result<Vec<u8>, String> {
    let mut text = Vec::new();
    let mut file = open_public(path, owner)?.take(MAX_BYTES + 1);
    file.read_to_end(&mut text).map_err(failed)?;
    match file.limit() {
        0 => Err(format!("it is longer than {MAX_BYTES} bytes")),
        _ => Ok(text),
    }
}

/// Opens a file that everybody may read, and that only this user, root and the owner of the data file may change.
#[cfg(unix)]
fn open_public(path: &Path, owner: Option<u32>) -> Result<File, String> {
    let verify = |found: &std::fs::Metadata| match alterability(path, found, owner) {
        Some(exposure) => Err(format!("{}; run `{}`", exposure.problem, exposure.command)),
        // A pipe cannot be read again.
        None if !found.is_file() && !found.is_symlink() => Err("it is not a file".into()),
        None => Ok(()),
    };
    open_verified(path, verify, failed)
}

#[cfg(not(unix))]
fn open_public(path: &Path, _: Option<u32>) -> Result<File, String> {
    File::open(path).map_err(failed)
}

#[cfg(not(unix))]
fn owner_of(_: &Path) -> Option<u32> {
    None
}

fn failed(error: io::Error) -> String {
    error.to_string()
}

impl TryFrom<KeyInFile> for PublicKey {
    type Error = String;

    fn try_from(key: KeyInFile) -> Result<Self, String> {
        let info = SubjectPublicKeyInfoDer::from_pem_slice(key.key.as_bytes());
        let point = info.ok().and_then(|info| Some(p256_point(&info)?.to_vec()));
        match point {
            Some(point) => Ok(Self {
                identifier: key.key_identifier,
                point,
            }),
            None => Err(format!(
                "the key `{}` is not a public key of ECDSA with the curve P-256, as PEM",
                key.key_identifier
            )),
        }
    }
}

/// Returns the uncompressed point in the `SubjectPublicKeyInfo` of a P-256 key (RFC 5480).
fn p256_point(info: &[u8]) -> Option<&[u8]> {
    /// SEQUENCE { SEQUENCE { id-ecPublicKey, secp256r1 }, BIT STRING of 66 bytes }
    const HEAD: &[u8] =
        b"\x30\x59\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\
        \x3d\x03\x01\x07\x03\x42\x00";
    const UNCOMPRESSED: u8 = 4;

    let point = info.strip_prefix(HEAD)?;
    (point.len() == 65 && point[0] == UNCOMPRESSED).then_some(point)
}

#[cfg(test)]
mod tests {
    use super::*;

    // Made with OpenSSL.
    const KEY: &str = "-----BEGIN PUBLIC KEY-----\n\
        MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEIsULDbZoOQU96R8d5EPCX1b4FcBz\n\
        RYBtwmSMuCOiVY3pesa2SRHP373pLVovBTamuG3lBnhj5j4Yzfl7UU85Pg==\n\
        -----END PUBLIC KEY-----";
    const P384: &str = "-----BEGIN PUBLIC KEY-----\n\
        MHYwEAYHKoZIzj0CAQYFK4EEACIDYgAESn1UIyt/8C0LzD4XcCWiiPrjw3luR/sM\n\
        aX4qaZTVS1mkMZx4yqcREux6PtZauSLX/h3AxDwxn6Ot1uNOiOfXhH4SahA8IQ6u\n\
        fTkQ04JBFS+T9214bo5yf3Twcc9Q0dj5\n\
        -----END PUBLIC KEY-----";
    const BODY: &[u8] = br#"[{"token":"a","type":"b","url":"c","source":"d"}]"#;
    const SIGNED: &str = "MEUCICI7DHOCGjGDAOuI4AM1UOKM64P60bUDRuXuGx+OlaEdAiEAihv8wxVPng69svEe\
        X+O8FBwHWUbQOFnoUuSpzLfA0U4=";

    fn file(keys: &[(&str, &str)]) -> Vec<u8> {
        let keys = keys.iter().map(|(name, key)| {
            serde_json::json!({ "key_identifier": name, "key": key, "is_current": false })
        });
        let keys: Vec<_> = keys.collect();
        serde_json::json!({ "public_keys": keys })
            .to_string()
            .into()
    }

    fn reporters(keys: &[(&str, &str)]) -> Reporters {
        Reporters {
            file: PathBuf::new(),
            owner: None,
            keys: ArcSwap::from_pointee(PublicKeys::parse(&file(keys)).unwrap()),
        }
    }

    fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            let name = http::HeaderName::from_bytes(name.as_bytes()).unwrap();
            headers.append(name, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn signatures_of_listed_keys_are_accepted() {
        let reporters = reporters(&[("one", KEY), ("two", KEY)]);
        for name in ["one", "two"] {
            let signed = headers(&[(IDENTIFIER, name), (SIGNATURE, SIGNED)]);
            assert!(reporters.have_signed(&signed, BODY), "{name}");
        }
    }

    #[test]
    fn other_signatures_are_refused() {
        let reporters = reporters(&[("one", KEY)]);
        let altered = SIGNED.replacen("ICI7", "ICI8", 1);
        let twice = [
            (IDENTIFIER, "one"),
            (SIGNATURE, SIGNED),
            (SIGNATURE, SIGNED),
        ];
        for fields in [
            &[][..],
            &[(IDENTIFIER, "one")],
            &[(SIGNATURE, SIGNED)],
            &[(IDENTIFIER, "two"), (SIGNATURE, SIGNED)],
            &[(IDENTIFIER, ""), (SIGNATURE, SIGNED)],
            &[(IDENTIFIER, "one"), (SIGNATURE, "")],
            &[(IDENTIFIER, "one"), (SIGNATURE, "no base64")],
            &[(IDENTIFIER, "one"), (SIGNATURE, altered.as_str())],
            &twice,
            &[
                (IDENTIFIER, "one"),
                (IDENTIFIER, "one"),
                (SIGNATURE, SIGNED),
            ],
        ] {
            assert!(!reporters.have_signed(&headers(fields), BODY), "{fields:?}");
        }
        let signed = headers(&[(IDENTIFIER, "one"), (SIGNATURE, SIGNED)]);
        assert!(!reporters.have_signed(&signed, &BODY[1..]));
    }

    #[test]
    fn only_names_of_absent_keys_are_unknown() {
        let reporters = reporters(&[("one", KEY)]);
        assert!(reporters.lack_key(&headers(&[(IDENTIFIER, "two")])));
        assert!(!reporters.lack_key(&headers(&[(IDENTIFIER, "one")])));
        assert!(!reporters.lack_key(&headers(&[(SIGNATURE, SIGNED)])));
    }

    #[test]
    fn invalid_files_are_refused_with_the_problem() {
        for (file, problem) in [
            (b"".to_vec(), "secret_scanning: EOF"),
            (b"[]".to_vec(), "secret_scanning: invalid"),
            (b"{}".to_vec(), "missing field `public_keys`"),
            (file(&[]), "`public_keys` is empty"),
            (file(&[("one", KEY), ("two", P384)]), "the key `two` is not"),
            (file(&[("one", "MFkw")]), "the key `one` is not"),
        ] {
            let error = PublicKeys::parse(&file).err().unwrap();
            assert!(error.contains(problem), "{error}");
        }
    }

    #[test]
    fn files_that_are_too_long_are_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(MAX_BYTES + 1).unwrap();
        let error = Reporters::read(file.path().into(), Path::new("")).err();
        let error = error.unwrap();
        assert!(error.contains("longer than 1048576 bytes"), "{error}");
    }

    /// Regression: the start waited for the other side of the pipe.
    #[cfg(unix)]
    #[test]
    fn pipes_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("keys");
        let mode = rustix::fs::Mode::RUSR;
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        let error = Reporters::read(pipe, Path::new("")).err().unwrap();
        assert!(error.contains("not a file"), "{error}");
    }
}
