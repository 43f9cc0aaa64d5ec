//! Just enough HTTP to ask the admin listener of a node.

use std::{io, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

/// Status and body of the answer to a GET, of which at most 64 KiB are read.
pub(super) async fn get(address: &str, path: &str) -> io::Result<(u16, String)> {
    get_within(address, path, 64 * 1024, Duration::from_millis(500)).await
}

/// The same with another size and deadline.
pub(super) async fn get_within(
    address: &str,
    path: &str,
    most_bytes: u64,
    deadline: Duration,
) -> io::Result<(u16, String)> {
    let asked = async {
        let mut stream = TcpStream::connect(address).await?;
        let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.take(most_bytes).read_to_end(&mut answer).await?;
        parse(&String::from_utf8_lossy(&answer)).ok_or_else(|| io::Error::other("the answer is not HTTP"))
    };
    timeout(deadline, asked).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

fn parse(answer: &str) -> Option<(u16, String)> {
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.strip_prefix("HTTP/1.1 ")?.split(' ').next()?.parse().ok()?;
    Some((status, body.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_and_body_are_read() {
        let answer = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 4\r\n\r\nno\r\n";
        assert_eq!(parse(answer), Some((503, "no\r\n".to_owned())));
        assert_eq!(parse("SSH-2.0-x\r\n"), None);
    }
}
