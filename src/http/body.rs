//! Reading request bodies.

use bytes::Bytes;
use http::StatusCode;
use http_body::Body;
use http_body_util::{BodyExt, LengthLimitError, Limited};

use super::problem::Problem;

/// Reads a body of at most `max_bytes`.
pub(crate) async fn read_body<B>(body: B, max_bytes: usize) -> Result<Bytes, Problem>
where
    B: Body,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    match Limited::new(body, max_bytes).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => {
            let detail = format!("The body is longer than {max_bytes} bytes.");
            let status = StatusCode::PAYLOAD_TOO_LARGE;
            Err(Problem::new(status, "too_large", detail))
        }
        Err(_) => {
            let detail = "The body could not be read to its end.";
            Err(Problem::new(StatusCode::BAD_REQUEST, "bad_body", detail))
        }
    }
}
