//! CPU and memory of a server, as its own metrics report them.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use super::proc::Usage;

/// Longest answer that is read.
const MAX_ANSWER_BYTES: u64 = 4 * 1024 * 1024;

#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    #[error("admin address {0:?} is not http://host:port")]
    Address(String),
    #[error("no metrics from {address}: {why}")]
    Unreachable { address: String, why: String },
    #[error("metrics of {0} do not tell its CPU time and memory")]
    Missing(String),
}

/// `host:port` of `http://host:port`, with or without a path.
pub fn authority(url: &str) -> Result<String, AdminError> {
    let wrong = || AdminError::Address(url.to_owned());
    let rest = url.strip_prefix("http://").ok_or_else(wrong)?;
    let authority = rest.split('/').next().filter(|authority| authority.contains(':')).ok_or_else(wrong)?;
    Ok(authority.to_owned())
}

/// The CPU and memory of a server. The server renews these figures every 5 s, so they lag.
pub async fn usage(authority: &str) -> Result<Usage, AdminError> {
    parse(&metrics(authority).await?).ok_or_else(|| AdminError::Missing(authority.to_owned()))
}

/// The answer to `/metrics`.
pub async fn metrics(authority: &str) -> Result<String, AdminError> {
    let failed = |why: String| AdminError::Unreachable { address: authority.to_owned(), why };
    let asking = async {
        let mut stream = TcpStream::connect(authority).await?;
        let request = format!("GET /metrics HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.take(MAX_ANSWER_BYTES).read_to_end(&mut answer).await?;
        std::io::Result::Ok(String::from_utf8_lossy(&answer).into_owned())
    };
    let answer =
        timeout(Duration::from_secs(2), asking).await.map_err(|_| failed("no answer within 2 s".to_owned()))?;
    answer.map_err(|error| failed(error.to_string()))
}

/// Reads Carillon's metrics, also those of release 0.1.0, or those of Prometheus's own clients.
fn parse(metrics: &str) -> Option<Usage> {
    let value = |names: &[&str]| {
        metrics.lines().find_map(|line| {
            let (name, value) = line.split_once([' ', '{'])?;
            let value = value.rsplit(' ').next()?;
            names.contains(&name).then(|| value.parse::<f64>().ok()).flatten()
        })
    };
    let cpu_s = value(&["carillon_node_cpu_seconds_total", "carillon_node_cpu_seconds", "process_cpu_seconds_total"])?;
    let rss = value(&["carillon_node_resident_memory_bytes", "process_resident_memory_bytes"])?;
    Some(Usage { cpu_us: (cpu_s * 1e6) as u64, rss_bytes: rss as u64 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_of_both_kinds_are_read() {
        let usage = Some(Usage { cpu_us: 1_500_000, rss_bytes: 2048 });
        for cpu in ["carillon_node_cpu_seconds_total", "carillon_node_cpu_seconds"] {
            let ours = format!(
                "HTTP/1.1 200 OK\r\n\r\n# HELP {cpu} Time\n{cpu} 1.5\ncarillon_node_resident_memory_bytes{{a=\"b\"}} 2048\n"
            );
            assert_eq!(parse(&ours), usage);
        }
        assert_eq!(parse("process_cpu_seconds_total 1.5\nprocess_resident_memory_bytes 2.048e3\n"), usage);
        assert_eq!(parse("process_cpu_seconds_total 1.5\n"), None);
    }

    #[test]
    fn an_address_needs_its_port() {
        assert_eq!(authority("http://127.0.0.1:7400/metrics").ok().as_deref(), Some("127.0.0.1:7400"));
        for wrong in ["127.0.0.1:7400", "http://host/", "https://host:1"] {
            assert!(authority(wrong).is_err(), "{wrong}");
        }
    }
}
