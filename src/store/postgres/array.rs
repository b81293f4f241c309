//! Arrays in rows.

use std::error::Error;

use tokio_postgres::types::{FromSql, Type};

/// The elements of an array. Reading a `Vec` allocates as many elements as the server announces, even if
/// none follow.
#[derive(Debug)]
pub(super) struct Array<T>(pub(super) Vec<T>);

/// The fewest bytes of an element: its length.
const MIN_ELEMENT: usize = 4;

impl<'a, T: FromSql<'a>> FromSql<'a> for Array<T> {
    fn from_sql(ty: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        // The number of dimensions, whether there are nulls, and the type, then the length of each dimension.
        let announced = raw.get(12..).and_then(<[u8]>::first_chunk);
        let announced = announced.map_or(0, |length| u32::from_be_bytes(*length));
        if announced as usize > raw.len() / MIN_ELEMENT {
            return Err(format!(
                "an array of {} bytes announces {announced} elements",
                raw.len()
            )
            .into());
        }
        Vec::from_sql(ty, raw).map(Self)
    }

    fn accepts(ty: &Type) -> bool {
        <Vec<T> as FromSql>::accepts(ty)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(announced: u32, elements: &[&str]) -> Result<Vec<String>, String> {
        let mut raw = [1, 0, Type::TEXT.oid(), announced, 1]
            .map(u32::to_be_bytes)
            .concat();
        for element in elements {
            raw.extend((element.len() as u32).to_be_bytes());
            raw.extend(element.as_bytes());
        }
        let array = Array::from_sql(&Type::TEXT_ARRAY, &raw);
        array
            .map(|array| array.0)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn announced_elements_are_not_allocated_unless_they_follow() {
        assert_eq!(read(2, &["10/s", ""]), Ok(vec!["10/s".into(), "".into()]));
        let error = read(0x6000_0000, &["10/s"]).unwrap_err();
        assert_eq!(error, "an array of 28 bytes announces 1610612736 elements");
        assert!(read(2, &["10/s"]).is_err());
    }

    #[test]
    fn array_without_dimensions_is_empty() {
        let raw = [0, 0, Type::TEXT.oid()].map(u32::to_be_bytes).concat();
        let array = Array::<&str>::from_sql(&Type::TEXT_ARRAY, &raw).unwrap();
        assert!(array.0.is_empty());
    }
}
