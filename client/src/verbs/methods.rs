//! `sweep methods`: which method can tune which family of backbones, from the table that `validate` checks by.

use std::collections::BTreeMap;

use serde::Serialize;
use sweeps::recipe::{Family, METHODS};

use crate::cli::Format;
use crate::error::CliError;
use crate::output;
use crate::output::{Column, Grid};

#[derive(Debug, Serialize)]
struct Line {
    method: &'static str,
    /// By family: null if it cannot, else the locations of prompts to choose from.
    families: BTreeMap<&'static str, Option<Vec<&'static str>>>,
}

pub(crate) fn matrix(format: Format) -> Result<(), CliError> {
    let line = |method: &'static str| {
        let families = Family::ALL.map(|family| (family.name(), family.capability(method)));
        Line { method, families: families.into() }
    };
    let lines: Vec<Line> = METHODS.iter().map(|method| line(method)).collect();
    if format == Format::Json {
        return output::print_json(&lines);
    }
    output::print(&grid(&lines).to_text())
}

fn grid(lines: &[Line]) -> Grid {
    let mut columns = vec![Column::text("method")];
    columns.extend(Family::ALL.map(|family| Column::text(family.name())));
    let cell = |places: &Option<Vec<&'static str>>| match places.as_deref() {
        None => "–".to_owned(),
        Some([]) => "yes".to_owned(),
        Some(places) => places.join(" "),
    };
    let row = |line: &Line| {
        let cells = Family::ALL.map(|family| line.families.get(family.name()).map_or_else(String::new, cell));
        std::iter::once(line.method.to_owned()).chain(cells).collect()
    };
    Grid { columns, rows: lines.iter().map(row).collect() }
}
