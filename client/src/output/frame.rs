//! Tables for programs: typed columns, written as CSV or Parquet. Pure.

use std::sync::Arc;

use parquet::basic::{ConvertedType, LogicalType, Repetition, Type as Physical};
use parquet::data_type::{BoolType, ByteArray, ByteArrayType, DataType, DoubleType, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::types::Type;
use serde_json::Value;

/// The values of a column; `None` is empty in CSV and null in Parquet.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Values {
    Bool(Vec<Option<bool>>),
    Int(Vec<Option<i64>>),
    Float(Vec<Option<f64>>),
    Text(Vec<Option<String>>),
}

impl Values {
    pub(crate) fn text<'a>(values: impl IntoIterator<Item = &'a str>) -> Self {
        let present = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        Values::Text(values.into_iter().map(present).collect())
    }

    pub(crate) fn counts(values: impl IntoIterator<Item = u32>) -> Self {
        Values::Int(values.into_iter().map(|count| Some(i64::from(count))).collect())
    }

    /// Settings: of the narrowest type that holds them all; what is no scalar is JSON.
    pub(crate) fn settings(values: Vec<Option<Value>>) -> Self {
        let all = |is: fn(&Value) -> bool| values.iter().flatten().filter(|value| !value.is_null()).all(is);
        let values = values.iter().map(Option::as_ref);
        if all(Value::is_i64) {
            Values::Int(values.map(|value| value.and_then(Value::as_i64)).collect())
        } else if all(Value::is_number) {
            Values::Float(values.map(|value| value.and_then(Value::as_f64)).collect())
        } else if all(Value::is_boolean) {
            Values::Bool(values.map(|value| value.and_then(Value::as_bool)).collect())
        } else {
            let text = |value: &Value| match value {
                Value::Null => None,
                Value::String(text) => Some(text.clone()),
                other => Some(other.to_string()),
            };
            Values::Text(values.map(|value| value.and_then(text)).collect())
        }
    }

    fn field(&self, row: usize) -> String {
        fn written<T: ToString>(values: &[Option<T>], row: usize) -> String {
            values.get(row).and_then(Option::as_ref).map(T::to_string).unwrap_or_default()
        }
        match self {
            Values::Bool(values) => written(values, row),
            Values::Int(values) => written(values, row),
            Values::Float(values) => written(values, row),
            Values::Text(values) => written(values, row),
        }
    }

    fn len(&self) -> usize {
        match self {
            Values::Bool(values) => values.len(),
            Values::Int(values) => values.len(),
            Values::Float(values) => values.len(),
            Values::Text(values) => values.len(),
        }
    }
}

/// Columns of equal length, in a stable order.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Frame {
    pub(crate) columns: Vec<(String, Values)>,
}

impl Frame {
    pub(crate) fn push(&mut self, name: impl Into<String>, values: Values) {
        self.columns.push((name.into(), values));
    }

    fn rows(&self) -> usize {
        self.columns.first().map_or(0, |(_, values)| values.len())
    }

    /// As CSV (RFC 4180): a header, then the rows.
    pub(crate) fn to_csv(&self) -> Result<Vec<u8>, csv::Error> {
        let mut writer = csv::Writer::from_writer(Vec::new());
        writer.write_record(self.columns.iter().map(|(name, _)| name))?;
        for row in 0..self.rows() {
            writer.write_record(self.columns.iter().map(|(_, values)| values.field(row)))?;
        }
        writer.into_inner().map_err(|error| error.into_error().into())
    }

    /// As a Parquet file of one row group, uncompressed, every column optional.
    pub(crate) fn to_parquet(&self) -> Result<Vec<u8>, ParquetError> {
        let fields = self.columns.iter().map(|(name, values)| field(name, values).map(Arc::new));
        let schema = Type::group_type_builder("table").with_fields(fields.collect::<Result<_, _>>()?);
        let properties = Arc::new(WriterProperties::builder().build());
        let mut bytes = Vec::new();
        let mut file = SerializedFileWriter::new(&mut bytes, Arc::new(schema.build()?), properties)?;
        let mut group = file.next_row_group()?;
        for (_, values) in &self.columns {
            match values {
                Values::Bool(values) => write::<BoolType>(&mut group, values.iter().copied())?,
                Values::Int(values) => write::<Int64Type>(&mut group, values.iter().copied())?,
                Values::Float(values) => write::<DoubleType>(&mut group, values.iter().copied())?,
                Values::Text(values) => {
                    let bytes = values.iter().map(|text| text.as_deref().map(ByteArray::from));
                    write::<ByteArrayType>(&mut group, bytes)?;
                }
            }
        }
        group.close()?;
        file.close()?;
        Ok(bytes)
    }
}

fn field(name: &str, values: &Values) -> Result<Type, ParquetError> {
    let (physical, logical) = match values {
        Values::Bool(_) => (Physical::BOOLEAN, None),
        Values::Int(_) => (Physical::INT64, None),
        Values::Float(_) => (Physical::DOUBLE, None),
        Values::Text(_) => (Physical::BYTE_ARRAY, Some(LogicalType::String)),
    };
    let converted = if logical.is_some() { ConvertedType::UTF8 } else { ConvertedType::NONE };
    Type::primitive_type_builder(name, physical)
        .with_repetition(Repetition::OPTIONAL)
        .with_logical_type(logical)
        .with_converted_type(converted)
        .build()
}

/// Writes the next column of a row group: the values there are, and a level for each row that says whether it has one.
fn write<T: DataType>(
    group: &mut SerializedRowGroupWriter<'_, &mut Vec<u8>>,
    values: impl Iterator<Item = Option<T::T>>,
) -> Result<(), ParquetError> {
    let mut column = group
        .next_column()?
        .ok_or_else(|| ParquetError::General("the schema has fewer columns than the table".to_owned()))?;
    let mut levels = Vec::new();
    let mut present = Vec::new();
    for value in values {
        levels.push(i16::from(value.is_some()));
        present.extend(value);
    }
    column.typed::<T>().write_batch(&present, Some(&levels), None)?;
    column.close()
}

#[cfg(test)]
mod tests {
    use parquet::file::reader::{FileReader, SerializedFileReader};
    use serde_json::json;

    use super::*;

    fn frame() -> Frame {
        let mut frame = Frame::default();
        frame.push("task", Values::text(["vtab/dtd", "", "a, \"b\""]));
        frame.push("n", Values::counts([3, 0, 1]));
        frame.push("mean", Values::Float(vec![Some(71.25), None, Some(f64::NAN)]));
        frame.push("temperature", Values::settings(vec![Some(json!(true)), None, Some(json!(false))]));
        frame
    }

    #[test]
    fn csv_quotes_what_needs_it_and_leaves_missing_values_empty() {
        let text = String::from_utf8(frame().to_csv().expect("written")).expect("text");
        assert_eq!(
            text,
            "task,n,mean,temperature\nvtab/dtd,3,71.25,true\n,0,,\n\"a, \"\"b\"\"\",1,NaN,false\n"
        );
    }

    #[test]
    fn parquet_is_read_back_with_types_and_nulls() {
        let bytes = frame().to_parquet().expect("written");
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), &bytes).expect("written");
        let reader = SerializedFileReader::new(std::fs::File::open(file.path()).expect("opened"));
        let reader = reader.expect("a Parquet file");
        let rows: Vec<String> =
            reader.get_row_iter(None).expect("rows").map(|row| row.expect("a row").to_string()).collect();
        assert_eq!(
            rows,
            [
                r#"{task: "vtab/dtd", n: 3, mean: 71.25, temperature: true}"#,
                "{task: null, n: 0, mean: null, temperature: null}",
                r#"{task: "a, "b"", n: 1, mean: NaN, temperature: false}"#
            ]
        );
    }

    #[test]
    fn settings_have_the_narrowest_type() {
        let of = |values: &[Value]| Values::settings(values.iter().cloned().map(Some).collect());
        assert!(matches!(of(&[json!(1), json!(2)]), Values::Int(_)));
        assert!(matches!(of(&[json!(1), json!(0.5), Value::Null]), Values::Float(_)));
        assert!(matches!(of(&[json!(true)]), Values::Bool(_)));
        let Values::Text(mixed) = of(&[json!("sgd"), json!({"name": "adamw"}), json!(1)]) else {
            panic!("text")
        };
        let mixed: Vec<_> = mixed.into_iter().flatten().collect();
        assert_eq!(mixed, ["sgd", r#"{"name":"adamw"}"#, "1"]);
    }
}
