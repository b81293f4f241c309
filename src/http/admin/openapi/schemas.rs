//! Schemas of inputs and results.

use utoipa::openapi::path::{Parameter, ParameterIn};
use utoipa::openapi::schema::{ObjectBuilder, SchemaFormat, Type};
use utoipa::openapi::{KnownFormat, RefOr, Schema};
use utoipa::{IntoParams, PartialSchema, ToSchema};

use crate::http::admin::input::{Json, Query};
use crate::limit::Limit;
use crate::model::Scope;
use crate::net::{ClientIp, IpKey};
use crate::time::Timestamp;

/// Schemas by name.
pub(super) type NamedSchemas = Vec<(String, RefOr<Schema>)>;

/// Schemas of one operation.
pub(crate) struct Schemas {
    pub(super) query: Vec<Parameter>,
    /// The name of the schema of the request body.
    pub(super) body: Option<String>,
    pub(super) reply: RefOr<Schema>,
    /// All schemas that the others refer to.
    pub(super) referenced: NamedSchemas,
}

impl Schemas {
    pub(in crate::http::admin) fn of<I: Describe, R: ToSchema>() -> Self {
        let mut referenced = Vec::new();
        let body = I::body(&mut referenced);
        R::schemas(&mut referenced);
        Self {
            query: I::parameters(),
            body,
            reply: R::schema(),
            referenced,
        }
    }
}

/// The field that the path contains, not the query or the body.
const PATH_ID: &str = "id";

/// Schemas of an input.
pub(crate) trait Describe {
    /// Its query parameters.
    fn parameters() -> Vec<Parameter> {
        Vec::new()
    }

    /// Adds the schema of its body; returns the name of that schema.
    fn body(_: &mut NamedSchemas) -> Option<String> {
        None
    }
}

impl<T: IntoParams> Describe for Query<T> {
    fn parameters() -> Vec<Parameter> {
        let mut parameters = T::into_params(|| Some(ParameterIn::Query));
        parameters.retain(|parameter| parameter.name != PATH_ID);
        parameters
    }
}

impl<T: ToSchema> Describe for Json<T> {
    fn body(schemas: &mut NamedSchemas) -> Option<String> {
        let name = add::<T>(schemas);
        if let Some((_, RefOr::T(Schema::Object(body)))) = schemas.last_mut() {
            body.properties.remove(PATH_ID);
            body.required.retain(|field| field != PATH_ID);
        }
        Some(name)
    }
}

/// Adds the schema of a type and all that it refers to; returns its name.
pub(super) fn add<T: ToSchema>(schemas: &mut NamedSchemas) -> String {
    let name = T::name().into_owned();
    T::schemas(schemas);
    schemas.push((name.clone(), T::schema()));
    name
}

macro_rules! string_schemas {
    ($($type:ty, $description:literal, $example:literal, $format:expr;)+) => {$(
        impl PartialSchema for $type {
            fn schema() -> RefOr<Schema> {
                let schema = ObjectBuilder::new().schema_type(Type::String);
                let schema = schema.description(Some($description)).format($format);
                schema.examples([$example]).build().into()
            }
        }

        impl ToSchema for $type {}
    )+};
}

string_schemas! {
    Timestamp, "A date and time (RFC 3339).", "2026-11-24T08:00:00Z",
        Some(SchemaFormat::KnownFormat(KnownFormat::DateTime));
    Limit, "A limit: `10/s`, `500000 monthly`, `5000 credits +100/hour`, `8 concurrent`.", "10/s",
        None;
    Scope, "A permission.", "orders:read", None;
    IpKey, "An IP address, or a network in CIDR notation.", "192.0.2.7", None;
    ClientIp, "An IP address, or `local`.", "192.0.2.7", None;
}
