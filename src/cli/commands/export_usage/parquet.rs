//! Apache Parquet.

use std::io::{self, Write};
use std::sync::Arc;

use parquet::basic::{Compression, Encoding};
use parquet::data_type::{ByteArray, ByteArrayType, DataType, Int32Type, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::parser::parse_message_type;
use parquet::schema::types::ColumnPath;

use super::RowWriter;
use crate::model::Usage;

pub(super) const IS_COMPILED: bool = true;

/// The columns of the other formats, in their order.
const SCHEMA: &str = "
message usage {
    required int64 at (TIMESTAMP(MILLIS, true));
    optional int64 key_id;
    required binary method (STRING);
    required binary path (STRING);
    required binary ip (STRING);
    required int32 status;
    required int64 latency_us;
    optional binary refused (STRING);
}";

/// The maximum number of rows in a row group. A group is kept in memory until it is full: 26 MiB, if each
/// path has 256 bytes.
const GROUP_ROWS: usize = 1 << 16;

/// Writes row groups.
pub(super) struct Parquet<W: Write + Send> {
    writer: SerializedFileWriter<W>,
    columns: Columns,
}

/// The columns of a row group. Columns that may be empty have a level for each row: 1 with a value, else 0.
#[derive(Default)]
struct Columns {
    at: Vec<i64>,
    key_id: Vec<i64>,
    key_id_levels: Vec<i16>,
    method: Vec<ByteArray>,
    path: Vec<ByteArray>,
    ip: Vec<ByteArray>,
    status: Vec<i32>,
    latency_us: Vec<i64>,
    refused: Vec<ByteArray>,
    refused_levels: Vec<i16>,
}

impl<W: Write + Send> Parquet<W> {
    pub(super) fn new(out: W) -> io::Result<Self> {
        let schema = parse_message_type(SCHEMA).map_err(io_error)?;
        // Nearly every time differs from all others, but little from the one before.
        let at = ColumnPath::from("at");
        let properties = WriterProperties::builder()
            .set_compression(Compression::SNAPPY)
            .set_column_dictionary_enabled(at.clone(), false)
            .set_column_encoding(at, Encoding::DELTA_BINARY_PACKED)
            .build();
        let writer = SerializedFileWriter::new(out, Arc::new(schema), Arc::new(properties));
        Ok(Self {
            writer: writer.map_err(io_error)?,
            columns: Columns::default(),
        })
    }

    fn write_group(&mut self) -> io::Result<()> {
        let columns = std::mem::take(&mut self.columns);
        let mut write = || -> Result<(), ParquetError> {
            let mut group = self.writer.next_row_group()?;
            columns.write(&mut group)?;
            group.close()?;
            Ok(())
        };
        write().map_err(io_error)
    }
}

impl<W: Write + Send> RowWriter for Parquet<W> {
    fn add(&mut self, usage: Usage) -> io::Result<()> {
        self.columns.add(usage);
        match self.columns.at.len() {
            GROUP_ROWS => self.write_group(),
            _ => Ok(()),
        }
    }

    fn finish(mut self: Box<Self>) -> io::Result<()> {
        if !self.columns.at.is_empty() {
            self.write_group()?;
        }
        self.writer.close().map_err(io_error)?;
        Ok(())
    }
}

impl Columns {
    fn add(&mut self, usage: Usage) {
        self.at.push(usage.at.unix_millis().cast_signed());
        let key_id = usage.key_id.map(|id| id.0.cast_signed());
        self.key_id_levels.push(key_id.is_some().into());
        self.key_id.extend(key_id);
        self.method.push(usage.method.as_str().into());
        self.path.push(usage.path.into_bytes().into());
        self.ip.push(usage.ip.to_string().into_bytes().into());
        self.status.push(usage.status.into());
        // At most 71 minutes.
        self.latency_us.push(usage.latency.as_micros() as i64);
        self.refused_levels.push(usage.refused.is_some().into());
        let refused = usage.refused.map(|reason| reason.as_str().into());
        self.refused.extend(refused);
    }

    fn write<W: Write + Send>(
        &self,
        group: &mut SerializedRowGroupWriter<'_, W>,
    ) -> Result<(), ParquetError> {
        write_column::<_, Int64Type>(group, &self.at, None)?;
        write_column::<_, Int64Type>(group, &self.key_id, Some(&self.key_id_levels))?;
        write_column::<_, ByteArrayType>(group, &self.method, None)?;
        write_column::<_, ByteArrayType>(group, &self.path, None)?;
        write_column::<_, ByteArrayType>(group, &self.ip, None)?;
        write_column::<_, Int32Type>(group, &self.status, None)?;
        write_column::<_, Int64Type>(group, &self.latency_us, None)?;
        write_column::<_, ByteArrayType>(group, &self.refused, Some(&self.refused_levels))
    }
}

/// Writes the next column of a row group.
fn write_column<W: Write + Send, T: DataType>(
    group: &mut SerializedRowGroupWriter<'_, W>,
    values: &[T::T],
    levels: Option<&[i16]>,
) -> Result<(), ParquetError> {
    if let Some(mut column) = group.next_column()? {
        column.typed::<T>().write_batch(values, levels, None)?;
        column.close()?;
    }
    Ok(())
}

/// Returns the error of the file, if it is one.
fn io_error(error: ParquetError) -> io::Error {
    match error {
        ParquetError::External(source) => match source.downcast() {
            Ok(source) => *source,
            Err(source) => io::Error::other(source),
        },
        error => io::Error::other(error),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::time::Duration;

    use parquet::file::reader::{FileReader, SerializedFileReader};

    use super::*;
    use crate::model::{KeyId, Method};
    use crate::net::ClientIp;
    use crate::time::Timestamp;

    fn usage(number: u64) -> Usage {
        Usage {
            at: Timestamp::from_unix_millis(number),
            key_id: Some(KeyId(1)),
            method: Method::Get,
            path: format!("/v1/{number}"),
            ip: ClientIp::LOCAL,
            status: 200,
            latency: Duration::ZERO,
            refused: None,
        }
    }

    #[test]
    fn row_groups_are_bounded() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut writer = Box::new(Parquet::new(file.reopen().unwrap()).unwrap());
        let rows = 2 * GROUP_ROWS + 1;
        for number in 0..rows {
            writer.add(usage(number as u64)).unwrap();
            assert!(writer.columns.at.len() < GROUP_ROWS);
        }
        writer.finish().unwrap();
        let reader = SerializedFileReader::new(File::open(file.path()).unwrap()).unwrap();
        let groups = reader.metadata().row_groups().iter();
        let groups: Vec<_> = groups.map(|group| group.num_rows() as usize).collect();
        assert_eq!(groups, [GROUP_ROWS, GROUP_ROWS, 1]);
    }

    #[test]
    fn error_of_the_file_is_returned() {
        struct Full;

        impl Write for Full {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::StorageFull.into())
            }

            fn flush(&mut self) -> io::Result<()> {
                Err(io::ErrorKind::StorageFull.into())
            }
        }

        let mut writer = Box::new(Parquet::new(Full).unwrap());
        writer.add(usage(1)).unwrap();
        let error = writer.finish().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    }
}
