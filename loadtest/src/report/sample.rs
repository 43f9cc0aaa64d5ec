//! Figures over time and over percentiles.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// One second of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// End of the second, in milliseconds after the beginning of the run.
    pub at_ms: u64,
    pub accepted_per_s: f64,
    pub delivered_per_s: f64,
    /// Connections that are signed in.
    pub signed_in: u64,
    /// Absent if nothing was accepted in this second.
    pub acceptance: Option<Quantiles>,
    pub delivery: Option<Quantiles>,
    /// One for each of [`super::Report::servers`], in their order.
    pub servers: Vec<ServerSample>,
    /// Cores that the load generator kept busy.
    pub generator_cores: f64,
    /// Used part of all cores' time, by any process: 0 to 1.
    pub machine_busy: f64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ServerSample {
    /// Cores that the server kept busy.
    pub cores: f64,
    pub rss_bytes: u64,
}

/// Latencies in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Quantiles {
    pub count: u64,
    pub mean_us: f64,
    pub p50_us: u64,
    pub p90_us: u64,
    pub p99_us: u64,
    pub p999_us: u64,
    pub max_us: u64,
}

/// A distribution of times.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Distribution {
    /// `acceptance`, `delivery`, `sign_in`, ...
    pub name: String,
    pub quantiles: Quantiles,
    /// Pairs of percentile (0 to 100) and microseconds.
    pub curve: Vec<(f64, u64)>,
}

impl Quantiles {
    /// `None` for an empty histogram.
    pub fn of(histogram: &Histogram<u64>) -> Option<Self> {
        (!histogram.is_empty()).then(|| Self {
            count: histogram.len(),
            mean_us: histogram.mean(),
            p50_us: histogram.value_at_quantile(0.5),
            p90_us: histogram.value_at_quantile(0.9),
            p99_us: histogram.value_at_quantile(0.99),
            p999_us: histogram.value_at_quantile(0.999),
            max_us: histogram.max(),
        })
    }
}

impl Distribution {
    /// `None` for an empty histogram.
    pub fn of(name: &str, histogram: &Histogram<u64>) -> Option<Self> {
        let percentiles = [
            0.0, 1.0, 5.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0, 80.0, 90.0, 95.0, 98.0, 99.0, 99.5, 99.8, 99.9,
            99.95, 99.98, 99.99, 99.999, 100.0,
        ];
        let point = |percentile: f64| (percentile, histogram.value_at_quantile(percentile / 100.0));
        let quantiles = Quantiles::of(histogram)?;
        Some(Self { name: name.to_owned(), quantiles, curve: percentiles.map(point).to_vec() })
    }
}
