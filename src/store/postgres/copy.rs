//! Encoding of usage rows for `COPY … FROM STDIN BINARY`.

use bytes::{BufMut, Bytes, BytesMut};

use crate::store::UsageEvent;

/// <https://www.postgresql.org/docs/current/sql-copy.html>, "Binary Format".
const SIGNATURE: &[u8] = b"PGCOPY\n\xff\r\n\0";

/// The PostgreSQL epoch, 2000-01-01, in milliseconds since the Unix epoch.
const EPOCH: i64 = 946_684_800_000;

pub(super) struct CopyRows(BytesMut);

impl Default for CopyRows {
    fn default() -> Self {
        let mut bytes = BytesMut::new();
        bytes.put_slice(SIGNATURE);
        // No flags and no header extension.
        bytes.put_u64(0);
        Self(bytes)
    }
}

impl CopyRows {
    /// key_id, path, method, status_code, latency_ms, ip, created_at, refused
    pub(super) fn push(&mut self, event: &UsageEvent, path: &[u8]) {
        self.0.put_i16(8);
        self.field(&event.key_id.0.to_be_bytes());
        // PostgreSQL text cannot contain NUL.
        let path = String::from_utf8_lossy(path).replace('\0', "\u{fffd}");
        self.field(path.as_bytes());
        self.field(event.method.as_str().as_bytes());
        self.field(&i32::from(event.status).to_be_bytes());
        let latency = f64::from(event.latency_micros) / 1_000.0;
        self.field(&latency.to_be_bytes());
        self.field(event.ip.to_string().as_bytes());
        let micros = (event.at.unix_millis() as i64 - EPOCH) * 1_000;
        self.field(&micros.to_be_bytes());
        match event.refused {
            Some(reason) => self.field(&(reason as i16).to_be_bytes()),
            None => self.0.put_i32(-1),
        }
    }

    fn field(&mut self, bytes: &[u8]) {
        self.0.put_i32(bytes.len() as i32);
        self.0.put_slice(bytes);
    }

    pub(super) fn finish(mut self) -> Bytes {
        self.0.put_i16(-1);
        self.0.freeze()
    }
}
