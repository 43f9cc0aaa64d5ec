//! How fast this disk makes a small append durable: the physical limit of a single acceptance.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::Path,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use crate::{measure::latencies::histogram, report::sample::Quantiles};

#[derive(Debug, Clone)]
pub struct FlushConfig {
    /// Size of each append.
    pub bytes: usize,
    pub duration: Duration,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FlushReport {
    pub bytes: u64,
    /// Appends with fdatasync a second, one after the other.
    pub per_s: f64,
    pub latency: Quantiles,
}

const FILE: &str = "carillon-flush-probe.tmp";

/// Appends to a file of its own in `folder`, and removes the file at the end.
pub fn measure(folder: &Path, config: &FlushConfig) -> io::Result<FlushReport> {
    let path = folder.join(FILE);
    let mut file = File::create(&path)?;
    let measured = append(&mut file, config);
    fs::remove_file(&path)?;
    measured
}

fn append(file: &mut File, config: &FlushConfig) -> io::Result<FlushReport> {
    let record = vec![b'x'; config.bytes.max(1)];
    let mut latencies = histogram();
    let began = Instant::now();
    while began.elapsed() < config.duration || latencies.is_empty() {
        let one = Instant::now();
        file.write_all(&record)?;
        file.sync_data()?;
        latencies.saturating_record(one.elapsed().as_micros() as u64);
    }
    let per_s = latencies.len() as f64 / began.elapsed().as_secs_f64();
    let latency = Quantiles::of(&latencies).ok_or_else(|| io::Error::other("nothing was appended"))?;
    Ok(FlushReport { bytes: record.len() as u64, per_s, latency })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_appends_and_leaves_nothing_behind() {
        let folder = tempfile::tempdir().expect("folder");
        let config = FlushConfig { bytes: 256, duration: Duration::from_millis(50) };
        let report = measure(folder.path(), &config).expect("measured");
        assert!(report.per_s > 0.0 && report.latency.p50_us > 0 && report.latency.count > 0);
        assert_eq!(fs::read_dir(folder.path()).expect("folder").count(), 0);
        assert!(measure(&folder.path().join("missing"), &config).is_err());
    }
}
