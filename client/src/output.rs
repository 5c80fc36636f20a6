//! Where output goes: data to stdout, the rest to stderr. A reader that went away is no error.

use std::io::{self, IsTerminal, Write};

use comfy_table::{Cell, CellAlignment, LineStyle, Table, TableStyle};
use serde::Serialize;

use crate::error::CliError;

/// A table before it is drawn.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Grid {
    pub(crate) columns: Vec<Column>,
    pub(crate) rows: Vec<Vec<String>>,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Column {
    pub(crate) name: String,
    pub(crate) is_number: bool,
}

impl Column {
    pub(crate) fn text(name: impl Into<String>) -> Self {
        Self { name: name.into(), is_number: false }
    }

    pub(crate) fn number(name: impl Into<String>) -> Self {
        Self { name: name.into(), is_number: true }
    }
}

impl Grid {
    /// As text for people: columns aligned, a line under the header, no trailing blanks.
    pub(crate) fn to_text(&self) -> String {
        const STYLE: TableStyle =
            TableStyle::new().header_separator(LineStyle::none().fill('─').junction('─'));
        let mut table = Table::new();
        table.load_style(STYLE);
        let cell = |(index, text): (usize, &String)| {
            let number = self.columns.get(index).is_some_and(|column| column.is_number);
            let alignment = if number { CellAlignment::Right } else { CellAlignment::Left };
            Cell::new(text).set_alignment(alignment)
        };
        let names: Vec<String> = self.columns.iter().map(|column| column.name.clone()).collect();
        table.set_header(names.iter().enumerate().map(cell));
        for row in &self.rows {
            table.add_row(row.iter().enumerate().map(cell));
        }
        for column in table.column_iter_mut() {
            // The style has a blank between columns by itself.
            column.set_padding((0, 1));
        }
        let mut text = table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n");
        text.push('\n');
        text
    }

    /// As CSV (RFC 4180): a header, then the rows.
    pub(crate) fn to_csv(&self) -> String {
        let names: Vec<String> = self.columns.iter().map(|column| column.name.clone()).collect();
        let mut text = String::new();
        for row in std::iter::once(&names).chain(&self.rows) {
            text.push_str(&row.iter().map(|field| quoted(field)).collect::<Vec<_>>().join(","));
            text.push('\n');
        }
        text
    }
}

fn quoted(field: &str) -> String {
    if field.contains(['"', ',', '\n', '\r']) {
        format!("\"{}\"", field.replace('"', "\"\""))
    } else {
        field.to_owned()
    }
}

/// Writes data to stdout.
pub(crate) fn print(text: &str) -> Result<(), CliError> {
    let mut stdout = io::stdout().lock();
    stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
        .map_err(|source| CliError::Write { source })
}

/// Writes one JSON document to stdout.
pub(crate) fn print_json(value: &impl Serialize) -> Result<(), CliError> {
    let mut text =
        serde_json::to_string_pretty(value).map_err(|source| CliError::Write { source: source.into() })?;
    text.push('\n');
    print(&text)
}

/// Writes one JSON document as one line to stdout.
pub(crate) fn print_json_line(value: &impl Serialize) -> Result<(), CliError> {
    let mut text =
        serde_json::to_string(value).map_err(|source| CliError::Write { source: source.into() })?;
    text.push('\n');
    print(&text)
}

/// Tells the user what was refused or broke.
pub(crate) fn print_error(error: &CliError) {
    let colored =
        io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let label = if colored { "\x1b[1;31merror:\x1b[0m" } else { "error:" };
    // Nothing is left to do when stderr is gone as well.
    let _ = writeln!(io::stderr(), "{label} {error}");
}

/// Tells the user something that is not data: a warning or a remark.
pub(crate) fn remark(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grid() -> Grid {
        Grid {
            columns: vec![Column::text("task"), Column::number("top1")],
            rows: vec![vec!["vtab/dtd".into(), "7.25".into()], vec!["a, \"b\"".into(), "70.00".into()]],
        }
    }

    #[test]
    fn text_is_aligned_and_has_no_trailing_blanks() {
        insta::assert_snapshot!(grid().to_text(), @r#"
        task       top1
        ────────────────
        vtab/dtd   7.25
        a, "b"    70.00
        "#);
        assert!(grid().to_text().lines().all(|line| !line.ends_with(' ')));
    }

    #[test]
    fn csv_quotes_what_needs_it() {
        assert_eq!(grid().to_csv(), "task,top1\nvtab/dtd,7.25\n\"a, \"\"b\"\"\",70.00\n");
    }
}
