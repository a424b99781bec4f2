//! The table of all figures: printed at the end, one line a figure, as Markdown; and as JSON, with every run of each.

use std::fmt;

use serde_json::{Value, json};

use super::stats::Summary;

/// What a figure counts, and so how it is printed.
#[derive(Clone, Copy, Debug)]
pub enum Unit {
    /// A count a second.
    PerSecond,
    /// A count.
    Count,
    /// Seconds, given in nanoseconds.
    Seconds,
    /// Milliseconds, given in nanoseconds.
    MillisOfNanos,
    /// Microseconds, given in nanoseconds.
    MicrosOfNanos,
    /// Nanoseconds.
    Nanos,
    /// MiB, given in bytes.
    MiB,
    /// Bytes.
    Bytes,
    /// GB a second, given in bytes.
    BytesPerSecond,
    /// A ratio of two figures.
    Times,
    /// The same, where a hundredth is too coarse.
    Thousandths,
    /// A share, given as a fraction of one.
    Percent,
}

/// What a ratio or a difference should be.
#[derive(Clone, Copy, Debug)]
pub enum Goal {
    /// At least this, in the unit of the line.
    AtLeast(f64),
    /// At most this, in the unit of the line.
    AtMost(f64),
    /// Less than this, in the unit of the line.
    Below(f64),
}

/// Sections of lines, printed by `Display`.
#[derive(Default)]
pub struct Table {
    measurement: String,
    sections: Vec<Section>,
    charts: Vec<Bar>,
    left_out: Vec<(String, String)>,
}

/// A part of the table.
struct Section {
    measurement: String,
    title: String,
    lines: Vec<Line>,
}

/// A figure of the table, one value for each run.
struct Line {
    what: String,
    runs: Vec<f64>,
    unit: Unit,
    goal: Option<Goal>,
}

/// What a plot shows of one peer: a value for each run, or the percentiles of a distribution.
struct Bar {
    chart: String,
    label: String,
    unit: Unit,
    values: Vec<f64>,
}

const HEADINGS: [&str; 5] = ["", "median", "min – max", "goal", ""];

impl Table {
    /// Says which measurement the sections that follow belong to, by its name.
    pub fn measurement(&mut self, name: &str) {
        name.clone_into(&mut self.measurement);
    }

    /// Begins a section.
    pub fn section(&mut self, title: &str) {
        let (measurement, title) = (self.measurement.clone(), title.to_owned());
        self.sections.push(Section { measurement, title, lines: Vec::new() });
    }

    /// A figure, one value for each run.
    pub fn line(&mut self, what: &str, figures: &[f64], unit: Unit) {
        self.add(Line { what: what.to_owned(), runs: figures.to_vec(), unit, goal: None });
    }

    /// A comparison that has a goal: the median decides.
    pub fn goal(&mut self, what: &str, figures: &[f64], unit: Unit, goal: Goal) {
        self.add(Line { what: what.to_owned(), runs: figures.to_vec(), unit, goal: Some(goal) });
    }

    /// Gives the plot of this name what it shows under `label`: a value for each run, or the percentiles of a distribution.
    pub fn chart(&mut self, chart: &str, label: &str, values: &[f64], unit: Unit) {
        let (chart, label) = (chart.to_owned(), label.to_owned());
        self.charts.push(Bar { chart, label, unit, values: values.to_vec() });
    }

    /// Says what is not in the table, and why; once, however often it is told.
    pub fn left_out(&mut self, what: &str, why: &str) {
        let note = (what.to_owned(), why.to_owned());
        if !self.left_out.contains(&note) {
            self.left_out.push(note);
        }
    }

    /// Everything in it, with all runs of each figure.
    pub fn to_json(&self) -> Value {
        let charts = self
            .charts
            .iter()
            .map(|bar| json!({"chart": bar.chart, "label": bar.label, "unit": bar.unit.name(), "values": bar.values}));
        let left_out = self.left_out.iter().map(|(what, why)| json!({"what": what, "why": why}));
        json!({
            "sections": self.sections.iter().map(Section::to_json).collect::<Vec<_>>(),
            "charts": charts.collect::<Vec<_>>(),
            "left_out": left_out.collect::<Vec<_>>(),
        })
    }

    fn add(&mut self, line: Line) {
        if self.sections.is_empty() {
            self.section("");
        }
        if let Some(section) = self.sections.last_mut() {
            section.lines.push(line);
        }
    }

    /// All lines as they are printed.
    fn cells(&self) -> Vec<[String; 5]> {
        let mut cells = Vec::new();
        let bold = |text: &str| [format!("**{text}**"), String::new(), String::new(), String::new(), String::new()];
        for section in &self.sections {
            cells.push(bold(&section.title));
            cells.extend(section.lines.iter().map(Line::cells));
        }
        if !self.left_out.is_empty() {
            cells.push(bold("Left out"));
        }
        cells.extend(self.left_out.iter().map(|(what, why)| {
            [format!("{what}: {}", why.replace('\n', " ")), String::new(), String::new(), String::new(), String::new()]
        }));
        cells
    }
}

impl Section {
    fn to_json(&self) -> Value {
        // A line that begins with a dash tells more of the last one that does not.
        let mut of = "";
        let mut lines = Vec::new();
        for line in &self.lines {
            of = if line.what.starts_with(DASH) { of } else { &line.what };
            lines.push(line.to_json(of));
        }
        json!({"measurement": self.measurement, "title": self.title, "lines": lines})
    }
}

/// How a line begins that tells more of the one above.
const DASH: char = '–';

impl Line {
    fn to_json(&self, of: &str) -> Value {
        let all = Summary::of(&self.runs);
        json!({
            "what": self.what, "of": of, "unit": self.unit.name(), "shown": self.cells(), "runs": self.runs,
            "median": all.median, "min": all.min, "max": all.max,
            "goal": self.goal.map(Goal::to_json), "met": self.goal.map(|goal| goal.is_met_by(all.median)),
        })
    }

    fn cells(&self) -> [String; 5] {
        let (all, unit) = (Summary::of(&self.runs), self.unit);
        let range = format!("{} – {}", unit.show(all.min), unit.show(all.max));
        let wanted = self.goal.map(|goal| format!("{} {}", goal.relation(), unit.show(goal.value())));
        let met = self.goal.map(|goal| if goal.is_met_by(all.median) { "met" } else { "MISSED" });
        let (wanted, met) = (wanted.unwrap_or_default(), met.unwrap_or_default().to_owned());
        [self.what.clone(), unit.show(all.median), range, wanted, met]
    }
}

impl Goal {
    fn value(self) -> f64 {
        let (Goal::AtLeast(value) | Goal::AtMost(value) | Goal::Below(value)) = self;
        value
    }

    fn relation(self) -> &'static str {
        match self {
            Goal::AtLeast(_) => "at least",
            Goal::AtMost(_) => "at most",
            Goal::Below(_) => "below",
        }
    }

    fn is_met_by(self, median: f64) -> bool {
        match self {
            Goal::AtLeast(least) => median >= least,
            Goal::AtMost(most) => median <= most,
            Goal::Below(end) => median < end,
        }
    }

    fn to_json(self) -> Value {
        json!({"relation": self.relation(), "value": self.value()})
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (headings, lines) = (HEADINGS.map(str::to_owned), self.cells());
        // What was left out is told in a line of its own length: it must not push the other columns away.
        let told = lines.len() - self.left_out.len();
        let width = |column: usize| {
            let cells = std::iter::once(&headings).chain(&lines[..told]).map(|line| line[column].chars().count());
            cells.max().unwrap_or(0)
        };
        let widths: [usize; 5] = std::array::from_fn(width);
        write_line(f, &headings, &widths)?;
        writeln!(f, "|{}|", widths.map(|width| "-".repeat(width + 2)).join("|"))?;
        lines.iter().try_for_each(|line| write_line(f, line, &widths))
    }
}

fn write_line(f: &mut fmt::Formatter<'_>, line: &[String; 5], widths: &[usize; 5]) -> fmt::Result {
    let cells: Vec<String> = line.iter().zip(widths).map(|(cell, &width)| format!("{cell:width$}")).collect();
    writeln!(f, "| {} |", cells.join(" | "))
}

impl Unit {
    /// What the values are given in.
    fn name(self) -> &'static str {
        match self {
            Unit::PerSecond => "a second",
            Unit::Count => "count",
            Unit::Seconds | Unit::MillisOfNanos | Unit::MicrosOfNanos | Unit::Nanos => "ns",
            Unit::MiB | Unit::Bytes => "bytes",
            Unit::BytesPerSecond => "bytes a second",
            Unit::Times | Unit::Thousandths | Unit::Percent => "ratio",
        }
    }

    /// The value with its unit, with about three digits that matter.
    pub fn show(self, value: f64) -> String {
        match self {
            Unit::PerSecond => format!("{}/s", grouped(value)),
            Unit::Count => grouped(value),
            Unit::Seconds => format!("{:.2} s", value / 1e9),
            Unit::MillisOfNanos => format!("{:.3} ms", value / 1e6),
            Unit::MicrosOfNanos => format!("{:.1} µs", value / 1e3),
            Unit::Nanos => format!("{value:.0} ns"),
            Unit::MiB => format!("{:.1} MiB", value / f64::from(1 << 20)),
            Unit::Bytes => format!("{value:.1} bytes"),
            Unit::BytesPerSecond => format!("{:.2} GB/s", value / 1e9),
            Unit::Times => format!("{value:.2} x"),
            Unit::Thousandths => format!("{value:.3} x"),
            Unit::Percent => format!("{:.2} %", value * 100.0),
        }
    }
}

/// A whole number with a comma after every three digits.
pub fn grouped(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
