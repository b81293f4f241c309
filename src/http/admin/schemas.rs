//! Schemas of what travels as text.

use utoipa::openapi::schema::{ObjectBuilder, SchemaFormat, Type};
use utoipa::openapi::{KnownFormat, RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use crate::limit::Limit;
use crate::model::Scope;
use crate::net::ClientIp;
use crate::net::IpKey;
use crate::time::Timestamp;

fn text() -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::String)
}

macro_rules! texts {
    ($($type:ty, $description:literal, $build:expr;)+) => {$(
        impl PartialSchema for $type {
            fn schema() -> RefOr<Schema> {
                let build: fn(ObjectBuilder) -> ObjectBuilder = $build;
                build(text().description(Some($description))).build().into()
            }
        }

        impl ToSchema for $type {}
    )+};
}

texts! {
    Timestamp, "A moment (RFC 3339).",
        |text| text.format(Some(SchemaFormat::KnownFormat(KnownFormat::DateTime)));
    Limit, "A limit: `10/s`, `500000 monthly`, `5000 credits +100/hour`, `8 concurrent`.", |text| text;
    Scope, "A permission.", |text| text;
    IpKey, "An address, or a network in CIDR notation.", |text| text;
    ClientIp, "An address, or `local`.", |text| text;
}
