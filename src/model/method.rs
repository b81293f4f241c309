//! Request methods.

use serde::{Deserialize, Serialize};

use super::codes::codes;

codes! {
    /// A request method.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
    #[repr(u8)]
    #[non_exhaustive]
    #[serde(rename_all = "UPPERCASE")]
    pub enum Method {
        /// Unknown or not given; named `-`.
        #[default]
        Other = 0, "-";
        /// `GET`
        Get = 1, "GET";
        /// `HEAD`
        Head = 2, "HEAD";
        /// `POST`
        Post = 3, "POST";
        /// `PUT`
        Put = 4, "PUT";
        /// `DELETE`
        Delete = 5, "DELETE";
        /// `CONNECT`
        Connect = 6, "CONNECT";
        /// `OPTIONS`
        Options = 7, "OPTIONS";
        /// `TRACE`
        Trace = 8, "TRACE";
        /// `PATCH`
        Patch = 9, "PATCH";
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
        let mut known = Self::ALL.iter().copied();
        known
            .find(|method| method.as_str() == text)
            .unwrap_or_default()
    }
}
