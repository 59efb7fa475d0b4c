//! Bar charts of the results as SVG: one file per metric, one group of bars per wire, whiskers at
//! the quartiles.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, anyhow};
use plotters::coord::Shift;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::plan::{Metric, System, Wire};
use super::results::Results;

const SIZE: (u32, u32) = (1400, 420);
const MARGIN: u32 = 16;
/// Room above the tallest bar for its figure.
const HEADROOM: f64 = 1.15;
const BAR_WIDTH: f64 = 0.8;
/// Distance between the bars of two wires, in bars.
const GROUP_GAP: f64 = 1.0;

type Drawing<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// Writes `METRIC.svg` for every metric into `folder`.
pub(crate) fn write(results: &Results, folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    for metric in Metric::ALL {
        let file = folder.join(format!("{}.svg", metric.key()));
        let drawing = SVGBackend::new(&file, SIZE).into_drawing_area();
        draw(&drawing, results, metric)
            .and_then(|()| drawing.present().map_err(|error| anyhow!("{error}")))
            .with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(())
}

/// One bar: its place on the axis, its wire and system, and its height with quartiles.
struct Column {
    place: f64,
    wire: Wire,
    system: System,
    median: f64,
    q1: f64,
    q3: f64,
}

fn columns(results: &Results, metric: Metric) -> Vec<Column> {
    let mut columns: Vec<Column> = Vec::new();
    let mut place = 0.0;
    for row in &results.rows {
        let (wire, system) = row.key;
        if columns.last().is_some_and(|last| last.wire != wire) {
            place += GROUP_GAP;
        }
        if let Some(summary) = row.summary(metric) {
            columns.push(Column {
                place,
                wire,
                system,
                median: summary.median,
                q1: summary.q1,
                q3: summary.q3,
            });
            place += 1.0;
        }
    }
    columns
}

fn draw(drawing: &Drawing<'_>, results: &Results, metric: Metric) -> Result<()> {
    let columns = columns(results, metric);
    let top = columns.iter().map(|column| column.q3).fold(f64::MIN_POSITIVE, f64::max) * HEADROOM;
    let end = columns.last().map_or(1.0, |column| column.place + 1.0);
    drawing.fill(&WHITE).map_err(failed)?;
    let mut chart = ChartBuilder::on(drawing)
        .caption(metric.title(), ("sans-serif", 20))
        .margin(MARGIN)
        .x_label_area_size(56)
        .y_label_area_size(64)
        .build_cartesian_2d(-0.5..end - 0.5, 0.0..top)
        .map_err(failed)?;
    chart.configure_mesh().disable_x_mesh().disable_x_axis().y_labels(6).draw().map_err(failed)?;
    for column in &columns {
        draw_column(&mut chart, column, metric.decimals()).map_err(failed)?;
        let (x, y) = chart.backend_coord(&(column.place, 0.0));
        let style = centred(VPos::Top, 12);
        drawing.draw_text(short_label(column.system), &style, (x, y + 6)).map_err(failed)?;
        drawing.draw_text(column.wire.name(), &style, (x, y + 22)).map_err(failed)?;
    }
    Ok(())
}

fn draw_column<DB: DrawingBackend>(
    chart: &mut ChartContext<'_, DB, Cartesian2d<RangedCoordf64, RangedCoordf64>>,
    column: &Column,
    decimals: usize,
) -> Result<(), DrawingAreaErrorKind<DB::ErrorType>> {
    let half = BAR_WIDTH / 2.0;
    let shape = [(column.place - half, 0.0), (column.place + half, column.median)];
    chart.draw_series([Rectangle::new(shape, colour(column.system).filled())])?;
    let whisker = [(column.place, column.q1), (column.place, column.q3)];
    chart.draw_series([PathElement::new(whisker, BLACK.stroke_width(2))])?;
    let above = (column.place, column.median.max(column.q3));
    let figure = format!("{:.decimals$}", column.median);
    chart.draw_series([Text::new(figure, above, centred(VPos::Bottom, 13))])?;
    Ok(())
}

fn failed(error: impl std::fmt::Display) -> anyhow::Error {
    anyhow!("{error}")
}

/// The label without what all of its neighbours have too.
fn short_label(system: System) -> &'static str {
    match system {
        System::Vxlan => "VXLAN",
        other => other.label().trim_start_matches("ipop "),
    }
}

fn centred(vertical: VPos, size: u32) -> TextStyle<'static> {
    TextStyle::from(("sans-serif", size)).pos(Pos::new(HPos::Center, vertical))
}

fn colour(system: System) -> RGBColor {
    match system {
        System::Bare => RGBColor(0x8a, 0x8f, 0x98),
        System::Vxlan => RGBColor(0xc9, 0xa2, 0x27),
        System::WireguardGo => RGBColor(0xb2, 0x4c, 0x4c),
        System::Boringtun => RGBColor(0xcf, 0x7f, 0x63),
        System::Nebula => RGBColor(0x8e, 0x6b, 0xa8),
        System::UserEpoll => RGBColor(0x9c, 0xc3, 0xe6),
        System::UserIoUring => RGBColor(0x3b, 0x82, 0xc4),
        System::KernelTc => RGBColor(0x2e, 0x8b, 0x57),
        System::KernelXdp => RGBColor(0x7f, 0xc9, 0x9b),
        System::SealedUser => RGBColor(0x5f, 0x6c, 0xb8),
        System::Sealed => RGBColor(0x1f, 0x6f, 0x6b),
    }
}
