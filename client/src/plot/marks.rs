//! Pictures without a common pair of axes: heat maps, parallel coordinates, bars.

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::font::SANS;
use super::{Area, Bars, COLORS, Drawn, Heat, Parallel};
use crate::format;

/// Viridis at five places: even in lightness, and told apart by people with any colour vision.
const VIRIDIS: [(f64, f64, f64); 5] =
    [(68.0, 1.0, 84.0), (59.0, 82.0, 139.0), (33.0, 145.0, 140.0), (94.0, 201.0, 98.0), (253.0, 231.0, 37.0)];

/// The colour of a place from 0, the worst, to 1.
fn color(place: f64) -> RGBColor {
    let at = place.clamp(0.0, 1.0) * (VIRIDIS.len() - 1) as f64;
    let index = (at as usize).min(VIRIDIS.len() - 2);
    let (share, (a, b)) = (at - index as f64, (VIRIDIS[index], VIRIDIS[index + 1]));
    let mix = |a: f64, b: f64| (a + share * (b - a)).round() as u8;
    RGBColor(mix(a.0, b.0), mix(a.1, b.1), mix(a.2, b.2))
}

/// A text whose given corner is at a place.
fn text<B: DrawingBackend>(
    area: &Area<B>,
    words: &str,
    at: (i32, i32),
    size: i32,
    anchor: (HPos, VPos),
    color: RGBColor,
) -> Drawn<B> {
    let words: String = words.chars().take(60).collect();
    let style = (SANS, size).into_text_style(area).color(&color).pos(Pos::new(anchor.0, anchor.1));
    area.draw(&Text::new(words, at, style))
}

const MIDDLE: (HPos, VPos) = (HPos::Center, VPos::Center);
const RIGHT: (HPos, VPos) = (HPos::Right, VPos::Center);
const LEFT: (HPos, VPos) = (HPos::Left, VPos::Center);

pub(super) fn heat<B: DrawingBackend>(heat: &Heat, root: &Area<B>) -> Drawn<B> {
    let (width, height) = root.dim_in_pixel();
    let (left, top, right, bottom) = (150, 70, width as i32 - 30, height as i32 - 80);
    text(root, &heat.title, (width as i32 / 2, 30), 20, MIDDLE, BLACK)?;
    let values = || heat.cells.iter().flatten().flatten().copied();
    let low = values().fold(f64::INFINITY, f64::min);
    let high = values().fold(f64::NEG_INFINITY, f64::max);
    let (columns, rows) = (heat.xs.len().max(1) as i32, heat.ys.len().max(1) as i32);
    let x = |column: i32| left + (right - left) * column / columns;
    let y = |row: i32| top + (bottom - top) * row / rows;
    let size = ((x(1) - x(0)) / 5).clamp(9, 16);
    for (row, line) in (0..).zip(&heat.cells) {
        for (column, cell) in (0..).zip(line) {
            let corners = [(x(column) + 1, y(row) + 1), (x(column + 1) - 1, y(row + 1) - 1)];
            let middle = ((x(column) + x(column + 1)) / 2, (y(row) + y(row + 1)) / 2);
            let Some(value) = cell else {
                root.draw(&Rectangle::new(corners, BLACK.mix(0.06).filled()))?;
                text(root, "–", middle, size, MIDDLE, BLACK)?;
                continue;
            };
            let place = if high > low { (value - low) / (high - low) } else { 1.0 };
            let place = if heat.is_minimized { 1.0 - place } else { place };
            root.draw(&Rectangle::new(corners, color(place).filled()))?;
            let ink = if place > 0.55 { BLACK } else { WHITE };
            text(root, &format::number(*value), middle, size, MIDDLE, ink)?;
        }
    }
    for (column, name) in (0..).zip(&heat.xs) {
        text(root, name, ((x(column) + x(column + 1)) / 2, bottom + 16), 14, MIDDLE, BLACK)?;
    }
    for (row, name) in (0..).zip(&heat.ys) {
        text(root, name, (left - 10, (y(row) + y(row + 1)) / 2), 14, RIGHT, BLACK)?;
    }
    text(root, &heat.x_label, ((left + right) / 2, bottom + 48), 16, MIDDLE, BLACK)?;
    text(root, &heat.y_label, (left - 10, top - 18), 16, RIGHT, BLACK)
}

pub(super) fn parallel<B: DrawingBackend>(parallel: &Parallel, root: &Area<B>) -> Drawn<B> {
    let (width, height) = root.dim_in_pixel();
    let (left, right, top, bottom) = (90, width as i32 - 110, 100, height as i32 - 40);
    text(root, &parallel.title, (width as i32 / 2, 30), 20, MIDDLE, BLACK)?;
    let count = parallel.axes.len().max(2) as i32;
    let x = |axis: i32| left + (right - left) * axis / (count - 1);
    let y = |place: f64| bottom - ((bottom - top) as f64 * place).round() as i32;
    for line in &parallel.lines {
        let points: Vec<(i32, i32)> = (0..).zip(line).map(|(axis, place)| (x(axis), y(*place))).collect();
        let score = line.last().copied().unwrap_or_default();
        root.draw(&PathElement::new(points, color(score).mix(0.7).stroke_width(2)))?;
    }
    for (at, axis) in (0..).zip(&parallel.axes) {
        root.draw(&PathElement::new(vec![(x(at), top), (x(at), bottom)], BLACK.stroke_width(1)))?;
        text(root, &axis.name, (x(at), top - 22), 15, MIDDLE, BLACK)?;
        for (label, place) in &axis.ticks {
            root.draw(&PathElement::new(vec![(x(at) - 3, y(*place)), (x(at) + 3, y(*place))], BLACK))?;
            let label: String = label.chars().take(16).collect();
            // White behind the label keeps it readable on the lines.
            for (dx, dy) in [(-1, 0), (1, 0), (0, -1), (0, 1)] {
                text(root, &label, (x(at) + 7 + dx, y(*place) + dy), 13, LEFT, WHITE)?;
            }
            text(root, &label, (x(at) + 7, y(*place)), 13, LEFT, BLACK)?;
        }
    }
    Ok(())
}

pub(super) fn bars<B: DrawingBackend>(bars: &Bars, root: &Area<B>) -> Drawn<B> {
    let (width, height) = root.dim_in_pixel();
    let (left, right, top) = (190, width as i32 - 260, 80);
    text(root, &bars.title, (width as i32 / 2, 30), 20, MIDDLE, BLACK)?;
    let room = (height as i32 - top - 30) / bars.bars.len().max(1) as i32;
    let step = room.clamp(12, 64);
    let longest = bars.bars.iter().map(|(_, length, _)| *length).fold(1e-9, f64::max);
    for (at, (name, length, words)) in (0..).zip(&bars.bars) {
        let (upper, lower) = (top + at * step, top + at * step + step * 3 / 4);
        let end = left + ((right - left) as f64 * length / longest).round() as i32;
        root.draw(&Rectangle::new([(left, upper), (end, lower)], COLORS[0].filled()))?;
        text(root, name, (left - 10, (upper + lower) / 2), 15, RIGHT, BLACK)?;
        text(root, words, (end + 8, (upper + lower) / 2), 14, LEFT, BLACK)?;
    }
    root.draw(&PathElement::new(vec![(left, top - 8), (left, top + step * bars.bars.len() as i32)], BLACK))
}
