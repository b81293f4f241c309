//! What an endpoint takes and answers, as it is described.

use http::{Method, StatusCode};
use utoipa::ToSchema;
use utoipa::openapi::path::Parameter;
use utoipa::openapi::{RefOr, Schema};

use super::input::{Input, Schemas};

pub(crate) struct Operation {
    pub(crate) method: Method,
    /// With `{id}` in the place of a number.
    pub(crate) path: &'static str,
    /// Its name in the description.
    pub(crate) name: &'static str,
    pub(crate) summary: &'static str,
    /// That of a success.
    pub(crate) status: StatusCode,
    pub(crate) query: Vec<Parameter>,
    /// The name of the schema of its body.
    pub(crate) body: Option<String>,
    pub(crate) reply: RefOr<Schema>,
    /// All that the schemas refer to.
    pub(crate) schemas: Schemas,
    /// The field of the query that asks for the next page.
    pub(crate) cursor: Option<&'static str>,
    /// It takes no admin key.
    pub(crate) is_for_trusted_peers: bool,
}

impl Operation {
    /// One that takes a `Q` and a `B`, and answers with an `R`.
    pub(crate) fn new<Q: Input, B: Input, R: ToSchema>(
        (method, path): (Method, &'static str),
        (name, summary): (&'static str, &'static str),
    ) -> Self {
        let mut schemas = Vec::new();
        let body = B::schema(&mut schemas);
        R::schemas(&mut schemas);
        Self {
            method,
            path,
            name,
            summary,
            status: StatusCode::OK,
            query: Q::parameters(),
            body,
            reply: R::schema(),
            schemas,
            cursor: None,
            is_for_trusted_peers: false,
        }
    }

    /// The same, which only trusted peers may ask for.
    #[cfg(feature = "serve")]
    pub(crate) fn for_trusted_peers(self) -> Self {
        Self {
            is_for_trusted_peers: true,
            ..self
        }
    }

    /// Whether a path is that of the operation, and what is in the place of the id.
    pub(crate) fn matches<'p>(&self, path: &'p str) -> Option<Option<&'p str>> {
        let mut id = None;
        let (mut own, mut asked) = (self.path.split('/'), path.split('/'));
        loop {
            match (own.next(), asked.next()) {
                (None, None) => return Some(id),
                (Some("{id}"), Some(text)) => id = Some(text),
                (Some(own), Some(asked)) if own == asked => {}
                _ => return None,
            }
        }
    }

    pub(crate) fn takes_id(&self) -> bool {
        self.path.contains("{id}")
    }
}
