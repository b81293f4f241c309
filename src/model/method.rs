//! Request methods.

use serde::{Deserialize, Serialize};

/// The method of a recorded request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[repr(u8)]
#[non_exhaustive]
#[serde(rename_all = "UPPERCASE")]
pub enum Method {
    /// Unknown or not given.
    #[default]
    Other = 0,
    /// `GET`
    Get = 1,
    /// `HEAD`
    Head = 2,
    /// `POST`
    Post = 3,
    /// `PUT`
    Put = 4,
    /// `DELETE`
    Delete = 5,
    /// `CONNECT`
    Connect = 6,
    /// `OPTIONS`
    Options = 7,
    /// `TRACE`
    Trace = 8,
    /// `PATCH`
    Patch = 9,
}

impl Method {
    const ALL: [Self; 10] = [
        Self::Other,
        Self::Get,
        Self::Head,
        Self::Post,
        Self::Put,
        Self::Delete,
        Self::Connect,
        Self::Options,
        Self::Trace,
        Self::Patch,
    ];

    /// The method as sent; `-` for [`Method::Other`].
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Other => "-",
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Delete => "DELETE",
            Self::Connect => "CONNECT",
            Self::Options => "OPTIONS",
            Self::Trace => "TRACE",
            Self::Patch => "PATCH",
        }
    }

    pub(crate) fn from_code(code: u8) -> Option<Self> {
        Self::ALL.get(usize::from(code)).copied()
    }
}

#[cfg(feature = "http")]
#[cfg_attr(docsrs, doc(cfg(feature = "http")))]
impl From<&http::Method> for Method {
    fn from(method: &http::Method) -> Self {
        method.as_str().into()
    }
}

/// Methods are case-sensitive (RFC 9110 §9.1); an unknown one is [`Method::Other`].
impl From<&str> for Method {
    fn from(text: &str) -> Self {
        Self::ALL
            .into_iter()
            .find(|method| method.as_str() == text)
            .unwrap_or_default()
    }
}
