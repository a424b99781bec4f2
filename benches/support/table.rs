//! The table that is printed at the end: one line a figure, as Markdown.

use std::fmt;

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
    lines: Vec<[String; 5]>,
}

const HEADINGS: [&str; 5] = ["", "median", "min – max", "goal", ""];

impl Table {
    /// Begins a section.
    pub fn section(&mut self, title: &str) {
        self.lines.push([format!("**{title}**"), String::new(), String::new(), String::new(), String::new()]);
    }

    /// A figure, one value for each run.
    pub fn line(&mut self, what: &str, figures: &[f64], unit: Unit) {
        let all = Summary::of(figures);
        let range = format!("{} – {}", unit.show(all.min), unit.show(all.max));
        self.lines.push([what.to_owned(), unit.show(all.median), range, String::new(), String::new()]);
    }

    /// A comparison that has a goal: the median decides.
    pub fn goal(&mut self, what: &str, figures: &[f64], unit: Unit, goal: Goal) {
        self.line(what, figures, unit);
        let median = Summary::of(figures).median;
        let (met, wanted) = match goal {
            Goal::AtLeast(least) => (median >= least, format!("at least {}", unit.show(least))),
            Goal::Below(end) => (median < end, format!("below {}", unit.show(end))),
            Goal::AtMost(most) => (median <= most, format!("at most {}", unit.show(most))),
        };
        if let Some(line) = self.lines.last_mut() {
            line[3] = wanted;
            line[4] = if met { "met".to_owned() } else { "MISSED".to_owned() };
        }
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let headings = HEADINGS.map(str::to_owned);
        let width = |column: usize| {
            let cells = std::iter::once(&headings).chain(&self.lines).map(|line| line[column].chars().count());
            cells.max().unwrap_or(0)
        };
        let widths: [usize; 5] = std::array::from_fn(width);
        write_line(f, &headings, &widths)?;
        writeln!(f, "|{}|", widths.map(|width| "-".repeat(width + 2)).join("|"))?;
        self.lines.iter().try_for_each(|line| write_line(f, line, &widths))
    }
}

fn write_line(f: &mut fmt::Formatter<'_>, line: &[String; 5], widths: &[usize; 5]) -> fmt::Result {
    let cells: Vec<String> = line.iter().zip(widths).map(|(cell, &width)| format!("{cell:width$}")).collect();
    writeln!(f, "| {} |", cells.join(" | "))
}

impl Unit {
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
