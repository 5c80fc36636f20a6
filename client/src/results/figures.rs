//! What pictures show of a sweep's results. Pure.

use proto::v1::GetTrialResponse;
use serde_json::Value;

use super::importance::Importances;
use super::statistics::Summary;
use super::{Results, Row};
use crate::format;
use crate::plot::{Bars, Figure, Heat, Lines, Parallel, ParallelAxis, Point, Scale, Series};

/// A span of this factor is shown on a log scale.
const LOG_FROM: f64 = 50.0;
/// More axes than this cannot be read beside each other.
const MOST_AXES: usize = 9;

/// The best configuration at each combination of some axes, in the order of the file.
pub(crate) fn best_at<'a>(results: &'a Results, axes: &[String]) -> Vec<(Vec<Option<Value>>, &'a Row)> {
    let key = |row: &Row| axes.iter().map(|axis| row.value(axis)).collect::<Vec<_>>();
    let mut groups: Vec<(Vec<Option<Value>>, Vec<&Row>)> = Vec::new();
    let mut places = std::collections::HashMap::new();
    for row in &results.rows {
        let at = *places.entry(key(row)).or_insert(groups.len());
        if at == groups.len() {
            groups.push((key(row), Vec::new()));
        }
        groups[at].1.push(row);
    }
    groups.into_iter().filter_map(|(key, rows)| Some((key, results.best(rows)?))).collect()
}

fn joined(values: &[Option<Value>]) -> String {
    let text = |value: &Option<Value>| value.as_ref().map_or("–".to_owned(), format::setting);
    values.iter().map(text).collect::<Vec<_>>().join(", ")
}

/// A metric against an axis: the best configuration at each value of it, a line for each of `by`.
pub(crate) fn metric(results: &Results, metric: &str, x: &str, by: &[String]) -> Figure {
    let mut axes = by.to_vec();
    axes.push(x.to_owned());
    let best = best_at(results, &axes);
    let values: Vec<Value> = best.iter().filter_map(|(key, _)| key.last().cloned().flatten()).collect();
    let (scale, places) = scale(&values);
    let mut series: Vec<Series> = Vec::new();
    for (key, row) in best {
        let Some((Some(value), group)) = key.split_last() else { continue };
        let Some(summary) = row.summary(metric, &results.objective) else { continue };
        let Some(x) = places(value) else { continue };
        let name = joined(group);
        let point = Point { x, y: summary.mean, interval: summary.ci95 };
        match series.iter_mut().find(|series| series.name == name) {
            Some(series) => series.points.push(point),
            None => series.push(Series { name, points: vec![point] }),
        }
    }
    for series in &mut series {
        series.points.sort_by(|a, b| a.x.total_cmp(&b.x));
    }
    Figure::Lines(Lines {
        title: format!("{metric} of the best configuration at each {x} (mean, 95 % interval)"),
        x: scale,
        x_label: x.to_owned(),
        y_label: metric.to_owned(),
        y_bounds: format::is_percentage(metric).then_some((0.0, 100.0)),
        series,
        has_bands: false,
    })
}

/// Where values stand along an axis: numbers by themselves, others by their order.
fn scale(values: &[Value]) -> (Scale, impl Fn(&Value) -> Option<f64> + use<>) {
    let numbers: Option<Vec<f64>> = values.iter().map(Value::as_f64).collect();
    let (scale, names) = match numbers {
        Some(numbers) => {
            let low = numbers.iter().copied().fold(f64::INFINITY, f64::min);
            let high = numbers.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let is_log = low > 0.0 && high / low >= LOG_FROM;
            (if is_log { Scale::Log } else { Scale::Linear }, None)
        }
        None => {
            let mut names: Vec<String> = Vec::new();
            for value in values.iter().map(format::setting) {
                if !names.contains(&value) {
                    names.push(value);
                }
            }
            (Scale::Names(names.clone()), Some(names))
        }
    };
    let place = move |value: &Value| match &names {
        None => value.as_f64(),
        Some(names) => {
            let text = format::setting(value);
            names.iter().position(|name| *name == text).map(|at| at as f64)
        }
    };
    (scale, place)
}

/// A metric epoch by epoch: for each name the trials of one configuration, with their mean and its interval.
pub(crate) fn curves(metric: &str, groups: Vec<(String, Vec<GetTrialResponse>)>) -> Figure {
    let series = groups.into_iter().map(|(name, trials)| {
        let mut epochs: std::collections::BTreeMap<u32, Vec<f64>> = std::collections::BTreeMap::new();
        for point in trials.iter().flat_map(|trial| &trial.points) {
            if point.name == metric && point.value.is_finite() {
                epochs.entry(point.epoch).or_default().push(point.value);
            }
        }
        let point = |(epoch, values): (u32, Vec<f64>)| {
            let summary = Summary::of_values(&values)?;
            Some(Point { x: f64::from(epoch), y: summary.mean, interval: summary.ci95 })
        };
        Series { name, points: epochs.into_iter().filter_map(point).collect() }
    });
    Figure::Lines(Lines {
        title: format!("{metric} by epoch, of the best configurations (mean, 95 % interval)"),
        x: Scale::Linear,
        x_label: "epoch".to_owned(),
        y_label: metric.to_owned(),
        y_bounds: format::is_percentage(metric).then_some((0.0, 100.0)),
        series: series.filter(|series| !series.points.is_empty()).collect(),
        has_bands: true,
    })
}

/// A metric over two axes: the best configuration at each place.
pub(crate) fn heat(results: &Results, metric: &str, x: &str, y: &str) -> Figure {
    let best = best_at(results, &[x.to_owned(), y.to_owned()]);
    let names = |at: usize| {
        let mut values: Vec<Option<Value>> = Vec::new();
        for (key, _) in &best {
            if !values.contains(&key[at]) {
                values.push(key[at].clone());
            }
        }
        values.sort_by(|a, b| {
            let number = |value: &Option<Value>| value.as_ref().and_then(Value::as_f64);
            match (number(a), number(b)) {
                (Some(a), Some(b)) => a.total_cmp(&b),
                _ => std::cmp::Ordering::Equal,
            }
        });
        values
    };
    let (xs, ys) = (names(0), names(1));
    let cell = |x: &Option<Value>, y: &Option<Value>| {
        let (_, row) = best.iter().find(|(key, _)| key[0] == *x && key[1] == *y)?;
        Some(row.summary(metric, &results.objective)?.mean)
    };
    // Larger values of y above.
    let cells = ys.iter().rev().map(|y| xs.iter().map(|x| cell(x, y)).collect()).collect();
    let label = |value: &Option<Value>| match value.as_ref().and_then(Value::as_f64) {
        Some(number) => format::number(number),
        None => joined(std::slice::from_ref(value)),
    };
    Figure::Heat(Heat {
        title: format!("{metric} of the best configuration at each {x} and {y}"),
        x_label: x.to_owned(),
        y_label: y.to_owned(),
        xs: xs.iter().map(label).collect(),
        ys: ys.iter().rev().map(label).collect(),
        cells,
        is_minimized: results.is_minimized(metric),
    })
}

/// Every configuration as a line through its values on the axes and, last, the metric.
pub(crate) fn parallel(results: &Results, metric: &str) -> Figure {
    let mut scored: Vec<(&Row, f64)> = Vec::new();
    for row in &results.rows {
        if let Some(summary) = row.summary(metric, &results.objective).filter(|s| s.mean.is_finite()) {
            scored.push((row, summary.mean));
        }
    }
    scored.sort_by(|(_, a), (_, b)| a.total_cmp(b));
    if results.is_minimized(metric) {
        scored.reverse();
    }
    let mut axes = Vec::new();
    let mut columns: Vec<Vec<f64>> = Vec::new();
    for name in results.varying().into_iter().take(MOST_AXES) {
        let values: Vec<Value> =
            scored.iter().map(|(row, _)| row.value(&name).unwrap_or_else(|| "–".into())).collect();
        let (ticks, places) = spread(&values);
        axes.push(ParallelAxis { name, ticks });
        columns.push(places);
    }
    let scores: Vec<Value> = scored.iter().map(|(_, score)| (*score).into()).collect();
    let (mut ticks, mut places) = spread(&scores);
    if results.is_minimized(metric) {
        // The best is at the top of every picture.
        places.iter_mut().for_each(|place| *place = 1.0 - *place);
        ticks.iter_mut().for_each(|(_, place)| *place = 1.0 - *place);
    }
    axes.push(ParallelAxis { name: metric.to_owned(), ticks });
    columns.push(places);
    let lines = (0..scored.len()).map(|row| columns.iter().map(|column| column[row]).collect()).collect();
    Figure::Parallel(Parallel { title: format!("{metric} of {} configurations", scored.len()), axes, lines })
}

/// Labels, and the place of each value from 0 to 1.
fn spread(values: &[Value]) -> (Vec<(String, f64)>, Vec<f64>) {
    let (scale, place) = scale(values);
    let at = |value: &Value| {
        let place = place(value).unwrap_or_default();
        if scale == Scale::Log { place.log10() } else { place }
    };
    let places: Vec<f64> = values.iter().map(at).collect();
    let low = places.iter().copied().fold(f64::INFINITY, f64::min);
    let high = places.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let unit = |place: f64| if high > low { (place - low) / (high - low) } else { 0.5 };
    let mut ticks: Vec<(String, f64)> = Vec::new();
    for (value, place) in values.iter().zip(&places) {
        let label = value.as_f64().map_or_else(|| format::setting(value), format::number);
        let tick = (label, unit(*place));
        if !ticks.contains(&tick) {
            ticks.push(tick);
        }
    }
    ticks.sort_by(|a, b| a.1.total_cmp(&b.1));
    if ticks.len() > 8 {
        // Too many to write: the ends, and a few between them.
        let last = ticks.len() - 1;
        ticks = (0..=5).map(|at| ticks[last * at / 5].clone()).collect();
    }
    (ticks, places.into_iter().map(unit).collect())
}

/// How much each axis matters.
pub(crate) fn importance(found: &Importances, metric: &str) -> Figure {
    let bars = found.axes.iter().map(|axis| {
        let words = format!("{:.0} %, favours {}", 100.0 * axis.share, axis.favours);
        (axis.axis.clone(), axis.share, words)
    });
    Figure::Bars(Bars { title: format!("What decides {metric} (PED-ANOVA)"), bars: bars.collect() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::example::mixed;

    #[test]
    fn a_metric_against_an_axis_takes_the_best_at_each_value() {
        let Figure::Lines(lines) = metric(&mixed(), "test/top1", "lr", &["method".to_owned()]) else {
            panic!("lines")
        };
        assert_eq!(lines.x, Scale::Linear);
        let drawn: Vec<(&str, Vec<(f64, f64)>)> = lines
            .series
            .iter()
            .map(|series| (series.name.as_str(), series.points.iter().map(|p| (p.x, p.y)).collect()))
            .collect();
        assert_eq!(
            drawn,
            [("linear", vec![(0.1, 65.0), (2.5, 76.5)]), ("vpt_deep", vec![(0.1, 79.0), (2.5, 80.5)])]
        );
    }

    #[test]
    fn a_heat_map_has_a_cell_for_each_pair() {
        let Figure::Heat(map) = heat(&mixed(), "val/top1", "lr", "task") else { panic!("a map") };
        assert_eq!((map.xs, map.ys.len()), (vec!["0.1".to_owned(), "2.5".to_owned()], 2));
        assert_eq!(map.cells[1], [Some(74.0), Some(71.5)], "the diverged one is not chosen");
    }

    #[test]
    fn parallel_coordinates_run_from_zero_to_one_with_the_best_last() {
        let Figure::Parallel(drawn) = parallel(&mixed(), "val/top1") else { panic!("parallel") };
        let names: Vec<&str> = drawn.axes.iter().map(|axis| axis.name.as_str()).collect();
        assert_eq!(names, ["task", "lr", "method", "val/top1"]);
        assert_eq!(drawn.lines.len(), 7, "one has no result");
        assert_eq!(drawn.lines[6], [0.0, 1.0, 1.0, 1.0]);
        assert!(drawn.lines.iter().flatten().all(|place| (0.0..=1.0).contains(place)));
    }

    #[test]
    fn names_stand_in_their_order_and_wide_spans_on_a_log_scale() {
        let (kind, place) = scale(&["b".into(), "a".into(), "b".into()]);
        assert_eq!(kind, Scale::Names(vec!["b".into(), "a".into()]));
        assert_eq!(place(&"a".into()), Some(1.0));
        assert_eq!(scale(&[0.001.into(), 1.0.into()]).0, Scale::Log);
        assert_eq!(scale(&[0.0.into(), 1.0.into()]).0, Scale::Linear);
    }
}
