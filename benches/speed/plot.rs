//! The measurements as a picture: a run's seconds by its size, a panel for each latency, both axes logarithmic.

use super::Case;
use plotters::prelude::*;
use std::path::Path;

const FUNCTION: RGBColor = RGBColor(31, 119, 180);
const FLOOR: RGBColor = RGBColor(255, 127, 14);
const IDEAL: RGBColor = RGBColor(44, 160, 44);
const SEQUENTIAL: RGBColor = RGBColor(148, 103, 189);

pub fn draw(cases: &[Case], file: &Path) {
    let panels: Vec<&[Case]> = cases.chunk_by(|one, other| one.latency_ms == other.latency_ms).collect();
    let width = u32::try_from(panels.len()).unwrap() * 380;
    let area = SVGBackend::new(file, (width, 400)).into_drawing_area();
    area.fill(&WHITE).unwrap();
    for (cases, area) in panels.iter().zip(area.split_evenly((1, panels.len()))) {
        panel(cases, &area);
    }
    area.present().unwrap();
}

fn panel(cases: &[Case], area: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>) {
    let mut chart = ChartBuilder::on(area)
        .caption(format!("TikTok Shop answers in {} ms", cases[0].latency_ms), ("sans-serif", 17))
        .margin(12)
        .x_label_area_size(42)
        .y_label_area_size(62)
        .build_cartesian_2d((80_f64..12_500.0).log_scale(), (0.01_f64..10_000.0).log_scale())
        .unwrap();
    chart
        .configure_mesh()
        .x_desc("due integrations")
        .y_desc("seconds")
        .x_labels(4)
        .light_line_style(TRANSPARENT)
        .x_label_formatter(&|due| format!("{due:.0}"))
        .y_label_formatter(&|seconds| format!("{seconds}"))
        .draw()
        .unwrap();
    let lines: [(&str, RGBColor, fn(&Case) -> f64); 4] = [
        ("one after the other", SEQUENTIAL, |case| case.sequential.wall),
        ("the function", FUNCTION, Case::wall),
        ("the floor", FLOOR, Case::floor_wall),
        ("the ideal", IDEAL, |case| case.ideal),
    ];
    for (name, colour, seconds) in lines {
        let points = cases.iter().map(|case| (case.due as f64, seconds(case)));
        let points: Vec<(f64, f64)> = points.filter(|(_, seconds)| *seconds > 0.0).collect();
        if points.is_empty() {
            continue;
        }
        chart
            .draw_series(LineSeries::new(points, colour.stroke_width(2)).point_size(3))
            .unwrap()
            .label(name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.3))
        .label_font(("sans-serif", 13))
        .draw()
        .unwrap();
}
