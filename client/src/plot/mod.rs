//! Pictures of a sweep, as SVG or PNG by the file's name. What is drawn is a [`Figure`], made elsewhere; here it is only drawn.

mod chart;
mod font;
mod marks;

use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::*;

use crate::error::CliError;

/// Width and height in pixels.
const SIZE: (u32, u32) = (1000, 620);

/// Colours that people with any colour vision tell apart (Okabe and Ito).
const COLORS: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(60, 60, 60),
];

/// What to draw.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Figure {
    Lines(Lines),
    Heat(Heat),
    Parallel(Parallel),
    Bars(Bars),
}

/// Lines with intervals over a common axis.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Lines {
    pub(crate) title: String,
    pub(crate) x: Scale,
    pub(crate) x_label: String,
    pub(crate) y_label: String,
    /// What the values cannot leave, though their intervals may.
    pub(crate) y_bounds: Option<(f64, f64)>,
    pub(crate) series: Vec<Series>,
    /// Intervals as a band along the line rather than as bars at its points.
    pub(crate) has_bands: bool,
}

/// The places along an axis.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) enum Scale {
    #[default]
    Linear,
    Log,
    /// Named places 0, 1, 2, …
    Names(Vec<String>),
}

#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Series {
    pub(crate) name: String,
    pub(crate) points: Vec<Point>,
}

/// A mean and half the width of its interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Point {
    pub(crate) x: f64,
    pub(crate) y: f64,
    pub(crate) interval: Option<f64>,
}

/// Values over two axes, by row.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Heat {
    pub(crate) title: String,
    pub(crate) x_label: String,
    pub(crate) y_label: String,
    pub(crate) xs: Vec<String>,
    pub(crate) ys: Vec<String>,
    pub(crate) cells: Vec<Vec<Option<f64>>>,
    /// The lowest value is the best.
    pub(crate) is_minimized: bool,
}

/// A line per configuration through its place on every axis; the last axis colours it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Parallel {
    pub(crate) title: String,
    pub(crate) axes: Vec<ParallelAxis>,
    /// Places from 0 to 1 on each axis; the worst first, so that the best are drawn above.
    pub(crate) lines: Vec<Vec<f64>>,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ParallelAxis {
    pub(crate) name: String,
    /// Labels and their places from 0 to 1.
    pub(crate) ticks: Vec<(String, f64)>,
}

/// A bar per name, the longest first.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Bars {
    pub(crate) title: String,
    /// Name, length from 0 to 1, and what is written behind it.
    pub(crate) bars: Vec<(String, f64, String)>,
}

/// Writes a figure to a file, whose name ends in `.svg` or `.png`.
pub(crate) fn write(figure: &Figure, file: &Path) -> Result<(), CliError> {
    let failed = |reason: String| CliError::WriteFile { file: file.to_owned(), reason };
    let extension = file.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    match extension.to_ascii_lowercase().as_str() {
        "svg" => {
            font::register()?;
            let mut text = String::new();
            let root = SVGBackend::with_string(&mut text, SIZE).into_drawing_area();
            draw(figure, &root).map_err(|error| failed(error.to_string()))?;
            drop(root);
            std::fs::write(file, text).map_err(|error| failed(error.to_string()))
        }
        "png" => {
            font::register()?;
            let mut pixels = vec![0; SIZE.0 as usize * SIZE.1 as usize * 3];
            let root = BitMapBackend::with_buffer(&mut pixels, SIZE).into_drawing_area();
            draw(figure, &root).map_err(|error| failed(error.to_string()))?;
            drop(root);
            let format = image::ExtendedColorType::Rgb8;
            image::save_buffer(file, &pixels, SIZE.0, SIZE.1, format)
                .map_err(|error| failed(error.to_string()))
        }
        _ => Err(CliError::InvalidRequest {
            message: format!("`{}` is neither an .svg nor a .png file", file.display()),
        }),
    }
}

type Area<B> = DrawingArea<B, Shift>;
type Drawn<B> = Result<(), DrawingAreaErrorKind<<B as DrawingBackend>::ErrorType>>;

fn draw<B: DrawingBackend>(figure: &Figure, root: &Area<B>) -> Drawn<B> {
    root.fill(&WHITE)?;
    match figure {
        Figure::Lines(lines) => chart::lines(lines, root)?,
        Figure::Heat(heat) => marks::heat(heat, root)?,
        Figure::Parallel(parallel) => marks::parallel(parallel, root)?,
        Figure::Bars(bars) => marks::bars(bars, root)?,
    }
    root.present()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines() -> Figure {
        let point = |x: f64| Point { x, y: 80.0 + x, interval: Some(1.0) };
        Figure::Lines(Lines {
            title: "val/top1".into(),
            x: Scale::Log,
            x_label: "lr".into(),
            y_label: "val/top1".into(),
            y_bounds: Some((0.0, 100.0)),
            series: vec![Series { name: "gated".into(), points: vec![point(0.01), point(0.1), point(1.0)] }],
            has_bands: false,
        })
    }

    #[test]
    fn pictures_are_written_by_the_name_of_the_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let svg = folder.path().join("a.svg");
        match write(&lines(), &svg) {
            // A machine without any font says what to do.
            Err(error) => assert!(error.to_string().contains("SWEEP_FONT"), "{error}"),
            Ok(()) => {
                let text = std::fs::read_to_string(&svg).expect("text");
                assert!(text.contains("<svg") && text.contains("gated") && text.contains("0.1"), "{text}");
                let png = folder.path().join("a.PNG");
                write(&lines(), &png).expect("written");
                let size = image::image_dimensions(&png).expect("a picture");
                assert_eq!(size, SIZE);
            }
        }
        assert_eq!(write(&lines(), Path::new("a.jpg")).expect_err("no format").exit_code(), 2);
    }
}
