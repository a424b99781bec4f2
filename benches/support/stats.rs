//! Percentiles and medians.

use serde_json::Value;

use super::Result;
use super::worker::number;

/// The value at `quantile` (0 to 1) of `sorted`, by the nearest-rank method; zero when there is none.
pub fn percentile<T: Copy + Default>(sorted: &[T], quantile: f64) -> T {
    let rank = (quantile * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.max(1) - 1).copied().unwrap_or_default()
}

/// Percentiles of times in nanoseconds, one value for each run.
#[derive(Default)]
pub struct Percentiles {
    pub p50: Vec<f64>,
    pub p99: Vec<f64>,
    /// The longest time.
    pub max: Vec<f64>,
}

impl Percentiles {
    /// Adds those of a run, whose times are sorted.
    pub fn add(&mut self, sorted: &[i64]) {
        self.p50.push(percentile(sorted, 0.5) as f64);
        self.p99.push(percentile(sorted, 0.99) as f64);
        self.max.push(percentile(sorted, 1.0) as f64);
    }

    /// Adds those that a worker's answer names `p50_ns`, `p99_ns` and `max_ns`.
    pub fn add_told(&mut self, answer: &Value) -> Result<()> {
        self.p50.push(number(answer, "p50_ns")? as f64);
        self.p99.push(number(answer, "p99_ns")? as f64);
        self.max.push(number(answer, "max_ns")? as f64);
        Ok(())
    }
}

/// Median, lowest and highest of some figures.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Summary {
    /// The middle one, or the mean of the middle two.
    pub median: f64,
    /// The lowest.
    pub min: f64,
    /// The highest.
    pub max: f64,
}

impl Summary {
    /// Sums up the figures of all runs; zeros when there are none.
    pub fn of(figures: &[f64]) -> Summary {
        let mut sorted = figures.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (Some(&min), Some(&max)) = (sorted.first(), sorted.last()) else {
            return Summary::default();
        };
        let lower = sorted.get((sorted.len() - 1) / 2).copied().unwrap_or(min);
        let upper = sorted.get(sorted.len() / 2).copied().unwrap_or(max);
        Summary { median: (lower + upper) / 2.0, min, max }
    }
}

/// The quotients of two series of figures, run by run.
pub fn ratios(of: &[f64], to: &[f64]) -> Vec<f64> {
    of.iter().zip(to).map(|(of, to)| of / to).collect()
}

/// The differences of two series of figures, run by run.
pub fn differences(of: &[f64], to: &[f64]) -> Vec<f64> {
    of.iter().zip(to).map(|(of, to)| of - to).collect()
}
