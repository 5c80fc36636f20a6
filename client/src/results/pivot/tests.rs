use super::*;
use crate::results::example::{configuration, mixed, reply};
use crate::results::groups;

fn owned(axes: &[&str]) -> Vec<String> {
    axes.iter().map(|axis| (*axis).to_owned()).collect()
}

fn spread(results: &Results, rows: &[&str], cols: &[&str], metric: &str) -> Pivot {
    let (rows, cols) = (owned(rows), owned(cols));
    pivot(results, Axes { rows: &rows, cols: &cols }, metric, Spread::Std, None).expect("nothing compared")
}

fn drawn(pivot: &Pivot) -> String {
    format!("{}\n{}", pivot.caption.join("\n"), pivot.grid().to_text())
}

#[test]
fn methods_by_tasks() {
    insta::assert_snapshot!(drawn(&spread(&mixed(), &["method"], &["task"], "test/top1")));
}

#[test]
fn rows_alone_make_one_column_and_columns_alone_one_row() {
    let rows = spread(&mixed(), &["method"], &[], "val/top1");
    let cols = spread(&mixed(), &[], &["lr"], "val/top1");
    insta::assert_snapshot!(format!("{}\n{}", drawn(&rows), drawn(&cols)));
}

#[test]
fn several_axes_make_a_row_of_each_combination() {
    insta::assert_snapshot!(drawn(&spread(&mixed(), &["method", "lr"], &["task"], "val/top1")));
}

#[test]
fn a_cell_without_a_result_is_a_dash() {
    let mut results = mixed();
    results.rows.remove(3);
    let pivot = spread(&results, &["method"], &["task"], "val/top1");
    assert_eq!(pivot.grid().rows[0], ["linear", "71.50 ± 0.50", "–"]);
    let csv = pivot.frame().to_csv().expect("written");
    insta::assert_snapshot!(String::from_utf8(csv).expect("text"));
}

/// Two methods on all of VTAB-1k, one configuration each.
fn vtab() -> Results {
    let mut rows = Vec::new();
    for (method, mean) in [("vpt_deep", 70.0), ("gated", 60.0)] {
        for task in groups::tests::vtab() {
            let settings = format!(r#"{{"method":"{method}","task":"{task}"}}"#);
            rows.push(configuration(rows.len() as u64 + 1, &settings, mean));
        }
    }
    Results::read(reply(rows)).expect("valid")
}

#[test]
fn tasks_of_vtab_end_in_their_means_and_published_ones_beside_them() {
    let tasks = groups::tests::vtab();
    let lines = tasks.iter().map(|task| format!("VPT-Deep,{task},top1,66,table 1\n")).collect::<String>();
    let text =
        format!("method,task,metric,value,source\n{lines}VPT-Deep,ALL19,top1_task_mean,66.5,table 2\n");
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), text).expect("written");
    let published = Published::read(&[file.path().to_owned()], None).expect("valid");
    let (rows, cols) = (owned(&["task"]), owned(&["method"]));
    let axes = Axes { rows: &rows, cols: &cols };
    let down = pivot(&vtab(), axes, "test/top1", Spread::Both, Some(&published)).expect("valid");
    insta::assert_snapshot!(drawn(&down));
    let axes = Axes { rows: &cols, cols: &rows };
    let across = pivot(&vtab(), axes, "test/top1", Spread::Ci, Some(&published)).expect("valid").grid();
    assert_eq!(across.columns.len(), 1 + 19 + 5);
    assert_eq!(across.rows[0][24], "65.00 ± 0.34", "3.105 / √19 of a smaller t");
    assert_eq!([&across.rows[1][24], &across.rows[2][24]], ["66.50", "−1.50"]);
    assert_eq!(across.rows[4][24], "–", "nothing was published of gated");
}

#[test]
fn a_single_column_has_published_numbers_beside_it() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), "method,task,metric,value\nVPT-Deep,type,top1,80\n").expect("written");
    let published = Published::read(&[file.path().to_owned()], None).expect("valid");
    let rows = owned(&["method"]);
    let axes = Axes { rows: &rows, cols: &[] };
    let pivot = pivot(&mixed(), axes, "test/top1", Spread::Std, Some(&published)).expect("valid");
    let grid = pivot.grid();
    let names: Vec<&str> = grid.columns.iter().map(|column| column.name.as_str()).collect();
    assert_eq!(names, ["method", "test/top1", "published", "difference", "source"]);
    assert_eq!(grid.rows[0][2..4], ["–", "–"]);
    assert_eq!(grid.rows[1][1..4], ["80.50 ± 1.25", "80.00", "+0.50"]);
}

#[test]
fn the_committed_tables_are_read_and_agree_with_the_means_they_print() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../sweeps/published");
    let files: Vec<_> = std::fs::read_dir(&folder)
        .expect("the folder")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "csv"))
        .collect();
    assert_eq!(files.len(), 8);
    for file in &files {
        Published::read(std::slice::from_ref(file), None).unwrap_or_else(|error| panic!("{error}"));
    }
    let (rows, cols) = (owned(&["method"]), owned(&["task"]));
    let means = |files: &[&str]| {
        let files: Vec<_> = files.iter().map(|file| folder.join(file)).collect();
        let published = Published::read(&files, None).expect("valid");
        let axes = Axes { rows: &rows, cols: &cols };
        let pivot = pivot(&vtab(), axes, "test/top1", Spread::Ci, Some(&published)).expect("valid");
        pivot.grid().rows[1][20..].to_vec()
    };
    // VPT-Deep: Natural, Specialized, Structured, of 3 groups, of 19 tasks; from the tasks, then as printed.
    let tasks = "vtab_vitb16_sup21k.csv";
    assert_eq!(means(&[tasks]), ["78.49", "82.43", "55.00", "71.97", "69.43"]);
    let printed = means(&[tasks, "vtab_vitb16_sup21k_means.csv"]);
    assert_eq!(printed, ["78.48", "82.43", "54.98", "71.97", "69.43"]);
}
