//! Lines with intervals.

use plotters::prelude::*;

use super::font::SANS;
use super::{Area, COLORS, Drawn, Lines, Point, Scale, Series};
use crate::format;

/// More values than these get round ticks instead of one each.
const MOST_TICKS: usize = 9;
const LEGEND: i32 = 210;

pub(super) fn lines<B: DrawingBackend>(lines: &Lines, root: &Area<B>) -> Drawn<B> {
    let (width, _) = root.dim_in_pixel();
    let has_legend = lines.series.iter().any(|series| !series.name.is_empty());
    let (plot, legend) = root.split_horizontally(width as i32 - if has_legend { LEGEND } else { 20 });
    let place = |x: f64| if lines.x == Scale::Log { x.log10() } else { x };
    let points = || lines.series.iter().flat_map(|series| &series.points);
    let xs = span(points().map(|point| place(point.x)), 0.03);
    let ends = points().flat_map(|point| {
        let half = point.interval.unwrap_or(0.0);
        [point.y - half, point.y + half]
    });
    let ys = view(points().map(|point| point.y), ends, lines.y_bounds);
    let ticks = ticks(lines, &xs);
    let mut chart = ChartBuilder::on(&plot)
        .caption(&lines.title, (SANS, 20))
        .margin(14)
        .x_label_area_size(52)
        .y_label_area_size(72)
        .build_cartesian_2d(xs.0..xs.1, ys.0..ys.1)?;
    let count = ticks.len();
    let label = |x: &f64| match &lines.x {
        Scale::Names(names) => named(names, *x),
        Scale::Log => format::number(10f64.powf(*x)),
        Scale::Linear => format::number(*x),
    };
    // The library chooses where its own ticks go: these are drawn by hand.
    chart
        .configure_mesh()
        .disable_x_mesh()
        .disable_x_axis()
        .light_line_style(TRANSPARENT)
        .bold_line_style(BLACK.mix(0.12))
        .y_desc(&lines.y_label)
        .y_label_formatter(&|y| format::number(*y))
        .label_style((SANS, 14))
        .axis_desc_style((SANS, 16))
        .draw()?;
    for tick in &ticks {
        let (x, bottom) = chart.backend_coord(&(*tick, ys.0));
        let (_, top) = chart.backend_coord(&(*tick, ys.1));
        plot.draw(&PathElement::new(vec![(x, bottom), (x, top)], BLACK.mix(0.08)))?;
        let style = (SANS, if count > 6 { 12 } else { 14 }).into_text_style(&plot);
        let text = label(tick);
        let (text_width, _) = plot.estimate_text_size(&text, &style)?;
        plot.draw(&Text::new(text, (x - text_width as i32 / 2, bottom + 8), style))?;
    }
    let style = (SANS, 16).into_text_style(&plot);
    let (text_width, _) = plot.estimate_text_size(&lines.x_label, &style)?;
    let (left, bottom) = chart.backend_coord(&(xs.0, ys.0));
    let (right, _) = chart.backend_coord(&(xs.1, ys.0));
    plot.draw(&PathElement::new(vec![(left, bottom), (right, bottom)], BLACK))?;
    let at = ((left + right - text_width as i32) / 2, bottom + 32);
    plot.draw(&Text::new(lines.x_label.clone(), at, style))?;

    // Bars of several lines stand beside each other.
    let middle = (lines.series.len() as f64 - 1.0) / 2.0;
    let beside = |index: usize| (index as f64 - middle) * (xs.1 - xs.0) * 0.006;
    for (index, series) in lines.series.iter().enumerate() {
        let color = COLORS[index % COLORS.len()];
        if lines.has_bands {
            chart.draw_series(std::iter::once(Polygon::new(band(series, place), color.mix(0.15))))?;
        } else {
            let bars = series.points.iter().filter_map(|point| {
                let (x, half) = (place(point.x) + beside(index), point.interval?);
                Some(PathElement::new(vec![(x, point.y - half), (x, point.y + half)], color.stroke_width(2)))
            });
            chart.draw_series(bars)?;
            let at = |point: &Point| (place(point.x) + beside(index), point.y);
            let dots = series.points.iter().map(|point| Circle::new(at(point), 4, color.filled()));
            chart.draw_series(dots)?;
        }
        let aside = if lines.has_bands { 0.0 } else { beside(index) };
        let line = series.points.iter().map(|point| (place(point.x) + aside, point.y));
        chart.draw_series(LineSeries::new(line, color.stroke_width(2)))?;
    }
    if has_legend { names(&lines.series, &legend) } else { Ok(()) }
}

/// The interval around a line, there above it and back below it.
fn band(series: &Series, place: impl Fn(f64) -> f64) -> Vec<(f64, f64)> {
    let end = |sign: f64| {
        let place = &place;
        series
            .points
            .iter()
            .map(move |point| (place(point.x), point.y + sign * point.interval.unwrap_or(0.0)))
    };
    let below: Vec<(f64, f64)> = end(-1.0).collect();
    end(1.0).chain(below.into_iter().rev()).collect()
}

/// The names of the lines beside their colours.
fn names<B: DrawingBackend>(series: &[Series], area: &Area<B>) -> Drawn<B> {
    const MOST: usize = 26;
    for (index, series) in series.iter().take(MOST).enumerate() {
        let y = 60 + 20 * index as i32;
        let color = COLORS[index % COLORS.len()];
        area.draw(&PathElement::new(vec![(0, y), (22, y)], color.stroke_width(3)))?;
        let name: String = series.name.chars().take(26).collect();
        area.draw(&Text::new(name, (30, y - 7), (SANS, 14).into_text_style(area)))?;
    }
    Ok(())
}

fn named(names: &[String], x: f64) -> String {
    let at = x.round();
    let name = names.get(at as usize).filter(|_| at >= 0.0 && (x - at).abs() < 1e-6);
    name.map(|name| name.chars().take(18).collect()).unwrap_or_default()
}

/// One tick for each value where these are few, else round ones.
fn ticks(lines: &Lines, (low, high): &(f64, f64)) -> Vec<f64> {
    if let Scale::Names(names) = &lines.x {
        return (0..names.len()).map(|at| at as f64).collect();
    }
    let place = |x: f64| if lines.x == Scale::Log { x.log10() } else { x };
    let mut values: Vec<f64> =
        lines.series.iter().flat_map(|series| &series.points).map(|point| place(point.x)).collect();
    values.sort_by(f64::total_cmp);
    values.dedup_by(|a, b| (*a - *b).abs() < 1e-9);
    if values.len() <= MOST_TICKS {
        return values;
    }
    let step = if lines.x == Scale::Log {
        ((high - low) / 6.0).ceil().max(1.0)
    } else {
        let rough = (high - low) / 6.0;
        let power = 10f64.powf(rough.log10().floor());
        [1.0, 2.0, 5.0, 10.0]
            .into_iter()
            .map(|factor| factor * power)
            .find(|step| *step >= rough)
            .unwrap_or(rough)
    };
    let first = (low / step).ceil();
    (0..20).map(|at| (first + f64::from(at)) * step).take_while(|tick| tick <= high).collect()
}

/// Least and largest value, with a margin on both sides.
fn span(values: impl Iterator<Item = f64>, margin: f64) -> (f64, f64) {
    let finite = values.filter(|value| value.is_finite());
    let (low, high) = finite
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)));
    if low > high {
        return (0.0, 1.0);
    }
    let wide = if high > low { (high - low) * margin } else { 0.5 };
    (low - wide, high + wide)
}

/// What to show of the values: all of their means, and of intervals so much that the means stay readable.
fn view(
    means: impl Iterator<Item = f64>,
    ends: impl Iterator<Item = f64>,
    bounds: Option<(f64, f64)>,
) -> (f64, f64) {
    let (low, high) = span(means, 0.25);
    let whole = span(ends, 0.04);
    let slack = high - low;
    let (low, high) = (whole.0.max(low - slack), whole.1.min(high + slack));
    match bounds {
        Some((least, most)) => {
            let margin = (most - least) * 0.01;
            (low.max(least - margin), high.min(most + margin))
        }
        None => (low, high),
    }
}
