//! Reads a node's admin listener over plain HTTP.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

/// The whole answer; `None` if there was none within two seconds.
pub(crate) async fn get(address: SocketAddr, path: &str) -> Option<String> {
    let asked = async {
        let mut stream = TcpStream::connect(address).await?;
        let request = format!("GET {path} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        std::io::Result::Ok(answer)
    };
    timeout(Duration::from_secs(2), asked).await.ok()?.ok()
}

/// The sum of a metric over all its labels, from Prometheus's text format.
pub(crate) fn metric(text: &str, name: &str) -> f64 {
    let named = |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{']));
    text.lines().filter(named).filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_is_summed_over_its_labels_and_no_other_name() {
        let text = "# HELP led help\nled{shard=\"1\"} 1\nled{shard=\"2\"} 2\nled_total 9\nother 5\n";
        assert_eq!(metric(text, "led"), 3.0);
        assert_eq!(metric(text, "led_total"), 9.0);
        assert_eq!(metric(text, "none"), 0.0);
    }
}
