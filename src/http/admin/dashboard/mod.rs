//! The dashboard: a page that uses the admin API.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode};

use super::static_file::{StaticFile, redirect};
use crate::http::problem::Problem;
use crate::http::response::HttpResult;

/// Allows nothing from other origins, no inline scripts or styles, no markup made of text, and no framing.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
    img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
    require-trusted-types-for 'script'; trusted-types 'none'";

/// The logo, which Swagger UI shows too.
pub(super) const LOGO: &str = include_str!("keyguard.svg");
pub(super) const SVG: &str = "image/svg+xml";
const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const JAVASCRIPT: &str = "text/javascript; charset=utf-8";
const TEXT: &str = "text/plain; charset=utf-8";

macro_rules! files {
    ($($name:literal: $content_type:ident = $text:expr;)+) => {
        /// The files by name, with their content types.
        const FILES: &[(&str, &str, &str)] = &[$(($name, $content_type, $text),)+];
    };
}

files! {
    "": HTML = include_str!("index.html");
    "style.css": CSS = include_str!("style.css");
    "keyguard.svg": SVG = LOGO;
    "api.js": JAVASCRIPT = include_str!("api.js");
    "audit.js": JAVASCRIPT = include_str!("audit.js");
    "chart.js": JAVASCRIPT = include_str!("chart.js");
    "dialog.js": JAVASCRIPT = include_str!("dialog.js");
    "dom.js": JAVASCRIPT = include_str!("dom.js");
    "format.js": JAVASCRIPT = include_str!("format.js");
    "key.js": JAVASCRIPT = include_str!("key.js");
    "keys.js": JAVASCRIPT = include_str!("keys.js");
    "lists.js": JAVASCRIPT = include_str!("lists.js");
    "locks.js": JAVASCRIPT = include_str!("locks.js");
    "main.js": JAVASCRIPT = include_str!("main.js");
    "orgs.js": JAVASCRIPT = include_str!("orgs.js");
    "overview.js": JAVASCRIPT = include_str!("overview.js");
    "usage.js": JAVASCRIPT = include_str!("usage.js");
    // uPlot 1.6.32, from https://www.npmjs.com/package/uplot.
    "uPlot.iife.min.js": JAVASCRIPT = include_str!("uplot/uPlot.iife.min.js");
    "uPlot.min.css": CSS = include_str!("uplot/uPlot.min.css");
    "uPlot.license.txt": TEXT = include_str!("uplot/LICENSE");
}

/// The files of the dashboard by name. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Dashboard(Arc<[(&'static str, StaticFile)]>);

impl Dashboard {
    pub(super) fn new() -> Self {
        let file = |&(name, content_type, text): &(&'static str, &'static str, &'static str)| {
            let content_type = HeaderValue::from_static(content_type);
            let bytes = Bytes::from_static(text.as_bytes());
            (name, StaticFile::new(bytes, content_type))
        };
        Self(FILES.iter().map(file).collect())
    }

    /// Responds to a request for `/admin/ui` or a path below it; `None` for other paths. The page is at
    /// `/admin/ui/`, so that its relative links work.
    pub(super) fn respond(
        &self,
        method: &Method,
        path: &str,
        headers: &HeaderMap,
    ) -> Option<HttpResult> {
        let below = path.strip_prefix("/admin/ui")?;
        if !below.is_empty() && !below.starts_with('/') {
            return None;
        }
        if !matches!(*method, Method::GET | Method::HEAD) {
            let allowed = ["GET", "HEAD"].into_iter();
            return Some(Err(Problem::method_not_allowed(allowed)));
        }
        let Some(name) = below.strip_prefix('/') else {
            return Some(Ok(redirect("ui/")));
        };
        let Some((_, file)) = self.0.iter().find(|(known, _)| *known == name) else {
            let detail = "The dashboard has no such file.";
            return Some(Err(Problem::new(
                StatusCode::NOT_FOUND,
                "not_found",
                detail,
            )));
        };
        Some(Ok(file.respond_in_page(headers, CONTENT_SECURITY_POLICY)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_is_served() {
        let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/http/admin/dashboard");
        let names = std::fs::read_dir(dir).unwrap();
        let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let served = |name: &String| FILES.iter().any(|(known, _, _)| known == name);
        let missing: Vec<_> = names.filter(|name| !served(name)).collect();
        let expected = ["index.html", "mod.rs", "uplot"];
        assert!(
            missing.iter().all(|name| expected.contains(&&**name)),
            "{missing:?}"
        );
        assert_eq!(missing.len(), expected.len());
    }
}
