//! Stands in for the module `parquet` without the feature of that name.

use std::io::{self, Write};

use super::RowWriter;
use crate::model::Usage;

pub(super) const IS_COMPILED: bool = false;

pub(super) struct Parquet;

impl Parquet {
    pub(super) fn new<W: Write + Send>(_: W) -> io::Result<Self> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

impl RowWriter for Parquet {
    fn add(&mut self, _: Usage) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn finish(self: Box<Self>) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}
