//! Tables for people: as text, Markdown or LaTeX. Pure.

use comfy_table::{Cell, CellAlignment, LineStyle, Table, TableStyle};

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

    /// As a Markdown table.
    pub(crate) fn to_markdown(&self) -> String {
        let escaped = |text: &String| text.replace('|', "\\|");
        let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
        let mut text = line(self.columns.iter().map(|column| escaped(&column.name)).collect());
        let rule = |column: &Column| if column.is_number { "---:" } else { "---" }.to_owned();
        text.push_str(&line(self.columns.iter().map(rule).collect()));
        for row in &self.rows {
            text.push_str(&line(row.iter().map(escaped).collect()));
        }
        text
    }

    /// As a `tabular` with the rules of the package booktabs.
    pub(crate) fn to_latex(&self) -> String {
        let alignment: String =
            self.columns.iter().map(|column| if column.is_number { 'r' } else { 'l' }).collect();
        let line = |cells: Vec<String>| format!("{} \\\\\n", cells.join(" & "));
        let mut text = format!("\\begin{{tabular}}{{{alignment}}}\n\\toprule\n");
        text.push_str(&line(self.columns.iter().map(|column| latex(&column.name)).collect()));
        text.push_str("\\midrule\n");
        for row in &self.rows {
            text.push_str(&line(row.iter().map(|cell| latex(cell)).collect()));
        }
        text.push_str("\\bottomrule\n\\end{tabular}\n");
        text
    }
}

/// Text with LaTeX's special characters escaped.
fn latex(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' | '%' | '$' | '#' | '_' | '{' | '}' => escaped.extend(['\\', c]),
            '\\' => escaped.push_str("\\textbackslash{}"),
            '~' => escaped.push_str("\\textasciitilde{}"),
            '^' => escaped.push_str("\\textasciicircum{}"),
            '±' => escaped.push_str("$\\pm$"),
            '−' => escaped.push_str("$-$"),
            '–' => escaped.push_str("--"),
            // After a line's end it would be taken as the space to leave there.
            '[' => escaped.push_str("{[}"),
            _ => escaped.push(c),
        }
    }
    escaped
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
    fn markdown_escapes_bars_and_latex_its_special_characters() {
        let mut grid = grid();
        grid.rows.push(vec!["vpt_deep|50%".into(), "71.25 ± 0.50".into()]);
        insta::assert_snapshot!(grid.to_markdown());
        insta::assert_snapshot!(grid.to_latex());
    }
}
