//! Charts of figures, as SVG that is readable on light and on dark ground.

use anyhow::{Result, anyhow};
use plotters::{
    coord::ranged1d::SegmentValue,
    prelude::{
        ChartBuilder, Circle, Color, IntoDrawingArea, IntoLogRange, IntoSegmentedCoord, LineSeries, RGBColor,
        Rectangle, SVGBackend, SeriesLabelPosition, TRANSPARENT,
    },
    style::{FontFamily, TextStyle},
};

/// Pixels.
const SIZE: (u32, u32) = (860, 360);
/// What stands for the colours of text and of lines, which depend on the ground.
const TEXT: RGBColor = RGBColor(1, 2, 3);
const GRID: RGBColor = RGBColor(4, 5, 6);
/// The driver in Rust, that in C, and more where there are more.
const SERIES: [RGBColor; 4] =
    [RGBColor(217, 119, 6), RGBColor(59, 130, 246), RGBColor(16, 160, 120), RGBColor(160, 90, 210)];
/// Gives those their colours.
const STYLE: &str = "<style>\
[fill=\"#010203\"]{fill:#24292f}[stroke=\"#010203\"]{stroke:#24292f}[stroke=\"#040506\"]{stroke:#d0d7de}\
@media(prefers-color-scheme:dark){\
[fill=\"#010203\"]{fill:#e6edf3}[stroke=\"#010203\"]{stroke:#e6edf3}[stroke=\"#040506\"]{stroke:#3d444d}}\
</style>";

/// Figures of several drivers beside each other.
#[derive(Clone, Debug)]
pub struct Bars {
    /// What is shown.
    pub title: &'static str,
    /// The drivers.
    pub series: Vec<&'static str>,
    /// What is compared, with a figure for each driver that has one.
    pub bars: Vec<(String, Vec<Option<f64>>)>,
}

/// Figures that grow with something.
#[derive(Clone, Debug)]
pub struct Curves {
    /// What is shown.
    pub title: String,
    /// What it grows with.
    pub x: &'static str,
    /// Each with its points.
    pub curves: Vec<(String, Vec<(u32, f64)>)>,
}

fn failed(error: impl std::fmt::Display) -> anyhow::Error {
    anyhow!("a chart was not drawn: {error}")
}

fn text(size: i32) -> TextStyle<'static> {
    let style: TextStyle<'_> = (FontFamily::SansSerif, size).into();
    style.color(&TEXT)
}

impl Bars {
    /// The chart.
    ///
    /// # Errors
    ///
    /// There is nothing to show.
    pub fn draw(&self) -> Result<String> {
        let mut svg = String::new();
        {
            let most =
                self.bars.iter().flat_map(|(_, values)| values.iter().flatten()).fold(0.0, |a: f64, b| a.max(*b));
            if most <= 0.0 {
                return Err(failed(format!("{} has no figures", self.title)));
            }
            let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
            let labels: Vec<&str> = self.bars.iter().map(|(label, _)| label.as_str()).collect();
            let mut chart = ChartBuilder::on(&area)
                .caption(self.title, text(20))
                .margin(12)
                .x_label_area_size(30)
                .y_label_area_size(64)
                .build_cartesian_2d((0..labels.len()).into_segmented(), 0.0..most * 1.08)
                .map_err(failed)?;
            let label = |position: &SegmentValue<usize>| match position {
                SegmentValue::CenterOf(at) => labels.get(*at).copied().unwrap_or_default().to_owned(),
                SegmentValue::Exact(_) | SegmentValue::Last => String::new(),
            };
            chart
                .configure_mesh()
                .disable_x_mesh()
                .bold_line_style(GRID)
                .light_line_style(TRANSPARENT)
                .axis_style(GRID)
                .label_style(text(13))
                .x_labels(labels.len())
                .x_label_formatter(&label)
                .draw()
                .map_err(failed)?;
            for (number, name) in self.series.iter().enumerate() {
                let color = SERIES[number % SERIES.len()];
                let bars =
                    self.bars.iter().enumerate().filter_map(|(at, (_, values))| Some((at, (*values.get(number)?)?)));
                let width = self.series.len();
                let drawn = chart
                    .draw_series(bars.map(|(at, value)| {
                        let mut bar = Rectangle::new(
                            [(SegmentValue::Exact(at), 0.0), (SegmentValue::Exact(at + 1), value)],
                            color.filled(),
                        );
                        bar.set_margin(0, 0, margin(number, width), margin(width - 1 - number, width));
                        bar
                    }))
                    .map_err(failed)?;
                drawn.label(*name).legend(move |(x, y)| Rectangle::new([(x, y - 5), (x + 12, y + 5)], color.filled()));
            }
            legend(&mut chart)?;
            area.present().map_err(failed)?;
        }
        Ok(styled(&svg))
    }
}

/// Pixels beside a bar that has so many others beside it, of so many in all.
fn margin(others: usize, series: usize) -> u32 {
    const ROOM: usize = 76;
    u32::try_from(8 + others * ROOM / series).unwrap_or(0)
}

impl Curves {
    /// The chart.
    ///
    /// # Errors
    ///
    /// There is nothing to show.
    pub fn draw(&self) -> Result<String> {
        let mut svg = String::new();
        {
            let points = || self.curves.iter().flat_map(|(_, points)| points.iter().copied());
            let most = points().map(|(_, y)| y).fold(0.0, f64::max);
            let (Some(first), Some(last)) = (points().map(|(x, _)| x).min(), points().map(|(x, _)| x).max()) else {
                return Err(failed(format!("{} has no figures", self.title)));
            };
            let top = if most > 0.0 { most * 1.08 } else { 1.0 };
            let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
            let mut chart = ChartBuilder::on(&area)
                .caption(&self.title, text(20))
                .margin(12)
                .x_label_area_size(44)
                .y_label_area_size(80)
                .build_cartesian_2d((first.max(1)..last.max(2)).log_scale().base(2.0), 0.0..top)
                .map_err(failed)?;
            chart
                .configure_mesh()
                .bold_line_style(GRID)
                .light_line_style(TRANSPARENT)
                .axis_style(GRID)
                .label_style(text(13))
                .x_desc(self.x)
                .axis_desc_style(text(14))
                .draw()
                .map_err(failed)?;
            for (number, (name, points)) in self.curves.iter().enumerate() {
                let color = SERIES[number % SERIES.len()];
                let line = LineSeries::new(points.iter().copied(), color.stroke_width(2));
                chart
                    .draw_series(line)
                    .map_err(failed)?
                    .label(name)
                    .legend(move |(x, y)| Rectangle::new([(x, y - 5), (x + 12, y + 5)], color.filled()));
                let dots = points.iter().map(|point| Circle::new(*point, 4, color.filled()));
                chart.draw_series(dots).map_err(failed)?;
            }
            legend(&mut chart)?;
            area.present().map_err(failed)?;
        }
        Ok(styled(&svg))
    }
}

fn legend<'a, DB, CT>(chart: &mut plotters::chart::ChartContext<'a, DB, CT>) -> Result<()>
where
    DB: plotters::prelude::DrawingBackend + 'a,
    CT: plotters::coord::CoordTranslate,
{
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .label_font(text(14))
        .background_style(TRANSPARENT)
        .border_style(TRANSPARENT)
        .draw()
        .map_err(failed)
}

/// The drawing with the colours that depend on the ground.
fn styled(svg: &str) -> String {
    let end = svg.find('>').map_or(0, |end| end + 1);
    format!("{}\n{STYLE}{}\n", &svg[..end], svg[end..].trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chart_has_its_words_and_the_colours_of_both_grounds() {
        let bars =
            Bars { title: "work", series: vec!["a", "b"], bars: vec![("one".to_owned(), vec![Some(3.0), None])] };
        let svg = bars.draw().expect("there is something to show");
        for part in ["work", "one", "prefers-color-scheme", "#D97706"] {
            assert!(svg.contains(part), "{part} is not in {svg}");
        }
        let empty = Bars { bars: Vec::new(), ..bars };
        assert!(empty.draw().is_err());
    }

    #[test]
    fn a_curve_has_a_dot_for_each_point() {
        let curves = Curves {
            title: "growth".to_owned(),
            x: "processors",
            curves: vec![("a".to_owned(), vec![(1, 1.0), (2048, 9.0)])],
        };
        let svg = curves.draw().expect("there is something to show");
        assert_eq!(svg.matches("<circle").count(), 2);
    }
}
