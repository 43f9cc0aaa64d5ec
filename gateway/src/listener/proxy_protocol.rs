//! The PROXY protocol, versions 1 and 2: a header by which a proxy describes the connection that it forwards
//! (<https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt>).

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, ReadBuf};

/// "the 12-byte hexadecimal sequence" that begins version 2 (section 2.2).
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\x00\r\nQUIT\n";
/// "a 107-byte buffer is always enough" for version 1, its end and a zero byte included (section 2.1).
const MAX_V1_BYTES: usize = 107;
/// Longest version 2 header that is accepted, in bytes: real proxies add some hundred bytes. The protocol allows
/// 65,535.
const MAX_V2_BYTES: usize = 4 * 1024;
const V2_FIXED_BYTES: usize = 16;

/// Whose connection the proxy forwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    Client(IpAddr),
    /// The proxy's own connection (a health check), or an unknown source.
    Proxy,
}

/// The bytes are no header, so nothing after them can be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ProxyError {
    #[error("connection does not begin with the PROXY protocol")]
    Absent,
    #[error("PROXY protocol header is malformed: {0}")]
    Malformed(&'static str),
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// At least this many more bytes belong to it: a reader that reads no more never reads beyond the header.
    Needs(usize),
    Done(Source),
}

/// Parses the first bytes of a connection, which must not go beyond the header.
pub(crate) fn parse(bytes: &[u8]) -> Result<Progress, ProxyError> {
    let begins = |with: &[u8]| bytes.iter().zip(with).all(|(byte, wanted)| byte == wanted);
    if begins(SIGNATURE) && !bytes.is_empty() {
        return match bytes.len() {
            ..V2_FIXED_BYTES => Ok(Progress::Needs(V2_FIXED_BYTES - bytes.len())),
            _ => v2(bytes),
        };
    }
    if begins(b"PROXY ") {
        return v1(bytes);
    }
    Err(ProxyError::Absent)
}

/// The shortest one is "PROXY UNKNOWN\r\n".
fn v1(bytes: &[u8]) -> Result<Progress, ProxyError> {
    const SHORTEST: usize = 15;
    if bytes.len() < SHORTEST {
        return Ok(Progress::Needs(SHORTEST - bytes.len()));
    }
    let Some(line) = bytes.strip_suffix(b"\r\n") else {
        let missing = if bytes.ends_with(b"\r") { 1 } else { 2 };
        if bytes.len() + missing > MAX_V1_BYTES {
            return Err(ProxyError::Malformed("the line is longer than 107 bytes"));
        }
        return Ok(Progress::Needs(missing));
    };
    let line = str::from_utf8(line).map_err(|_| ProxyError::Malformed("the line is not text"))?;
    if line.contains(['\r', '\n']) {
        return Err(ProxyError::Malformed("the line ends within"));
    }
    let mut words = line.split(' ').skip(1);
    let source = match words.next() {
        // "the receiver must ignore anything presented before the CRLF is found".
        Some("UNKNOWN") => return Ok(Progress::Done(Source::Proxy)),
        Some("TCP4") => words.next().and_then(|word| word.parse::<Ipv4Addr>().ok()).map(IpAddr::V4),
        Some("TCP6") => words.next().and_then(|word| word.parse::<Ipv6Addr>().ok()).map(IpAddr::V6),
        _ => return Err(ProxyError::Malformed("it is neither TCP4, TCP6 nor UNKNOWN")),
    };
    let source = source.ok_or(ProxyError::Malformed("the source is no address of its family"))?;
    let rest = (words.next(), words.next(), words.next(), words.next());
    let (Some(destination), Some(from), Some(to), None) = rest else {
        return Err(ProxyError::Malformed("it has not two addresses and two ports"));
    };
    if destination.parse::<IpAddr>().is_err() || from.parse::<u16>().is_err() || to.parse::<u16>().is_err() {
        return Err(ProxyError::Malformed("the destination or a port is none"));
    }
    Ok(Progress::Done(Source::Client(source)))
}

fn v2(bytes: &[u8]) -> Result<Progress, ProxyError> {
    let whole = V2_FIXED_BYTES + usize::from(u16::from_be_bytes([bytes[14], bytes[15]]));
    if whole > MAX_V2_BYTES {
        return Err(ProxyError::Malformed("it is longer than 4 KiB"));
    }
    if bytes[12] >> 4 != 2 {
        return Err(ProxyError::Malformed("its version is not 2"));
    }
    let local = match bytes[12] & 0xf {
        0 => true,
        1 => false,
        _ => return Err(ProxyError::Malformed("its command is neither LOCAL nor PROXY")),
    };
    if bytes.len() < whole {
        return Ok(Progress::Needs(whole - bytes.len()));
    }
    if bytes.len() > whole {
        return Err(ProxyError::Malformed("it ends before the bytes that were read"));
    }
    let addresses = &bytes[V2_FIXED_BYTES..];
    let short = ProxyError::Malformed("it is shorter than its addresses");
    let source = match bytes[13] >> 4 {
        // "the receiver must accept this connection as valid and must use the real connection endpoints".
        _ if local => return Ok(Progress::Done(Source::Proxy)),
        1 if addresses.len() >= 12 => addresses.first_chunk::<4>().copied().map(IpAddr::from),
        2 if addresses.len() >= 36 => addresses.first_chunk::<16>().copied().map(IpAddr::from),
        1 | 2 => return Err(short),
        // UNSPEC and UNIX: the receiver "should use the real connection endpoints" or is free to.
        0 | 3 => return Ok(Progress::Done(Source::Proxy)),
        _ => return Err(ProxyError::Malformed("its address family is not known")),
    };
    source.map(|source| Progress::Done(Source::Client(source))).ok_or(short)
}

/// Reads the header of a connection, and nothing after it.
#[derive(Default)]
pub(crate) struct Reader {
    bytes: Vec<u8>,
}

impl Reader {
    /// Cancel-safe.
    pub(crate) fn poll(&mut self, io: &mut (impl AsyncRead + Unpin), cx: &mut Context<'_>) -> Poll<io::Result<Source>> {
        loop {
            let needs = match parse(&self.bytes) {
                // Both kinds are longer than this, which tells them apart.
                _ if self.bytes.is_empty() => SIGNATURE.len(),
                Ok(Progress::Done(source)) => return Poll::Ready(Ok(source)),
                Ok(Progress::Needs(more)) => more,
                Err(error) => return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, error))),
            };
            let mut space = [0; 512];
            let most = needs.min(space.len());
            let mut got = ReadBuf::new(&mut space[..most]);
            ready!(Pin::new(&mut *io).poll_read(cx, &mut got))?;
            if got.filled().is_empty() {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
            self.bytes.extend_from_slice(got.filled());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use proptest::prelude::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    /// The header that a proxy would write.
    fn v1_of(source: IpAddr) -> Vec<u8> {
        match source {
            IpAddr::V4(source) => format!("PROXY TCP4 {source} 192.0.2.200 40000 7410\r\n").into_bytes(),
            IpAddr::V6(source) => format!("PROXY TCP6 {source} 2001:db8::200 40000 7410\r\n").into_bytes(),
        }
    }

    fn v2_of(source: IpAddr, command: u8, more: &[u8]) -> Vec<u8> {
        let (family, addresses) = match source {
            IpAddr::V4(source) => (0x11, [&source.octets()[..], &[192, 0, 2, 200, 1, 2, 3, 4]].concat()),
            IpAddr::V6(source) => (0x21, [&source.octets()[..], &[9; 16], &[1, 2, 3, 4]].concat()),
        };
        let length = (addresses.len() + more.len()) as u16;
        [SIGNATURE, &[0x20 | command, family][..], &length.to_be_bytes(), &addresses, more].concat()
    }

    fn any_address() -> impl Strategy<Value = IpAddr> {
        prop_oneof![
            any::<u32>().prop_map(|bits| IpAddr::V4(bits.into())),
            any::<u128>().prop_map(|bits| IpAddr::V6(bits.into()))
        ]
    }

    /// Reads as the reader does: never more bytes than are asked for.
    fn read(bytes: &[u8]) -> Result<Option<(Source, usize)>, ProxyError> {
        let mut end = SIGNATURE.len();
        while end <= bytes.len() {
            match parse(&bytes[..end])? {
                Progress::Done(source) => return Ok(Some((source, end))),
                Progress::Needs(more) => end += more,
            }
        }
        Ok(None)
    }

    proptest! {
        #[test]
        fn what_a_proxy_writes_is_understood_and_nothing_behind_it_is_read(
            source in any_address(),
            more in proptest::collection::vec(any::<u8>(), 0..300),
            behind in proptest::collection::vec(any::<u8>(), 0..50),
        ) {
            for header in [v1_of(source), v2_of(source, 1, &more)] {
                let stream = [&header[..], &behind].concat();
                prop_assert_eq!(read(&stream), Ok(Some((Source::Client(source), header.len()))));
                for cut in 12..header.len() {
                    prop_assert_eq!(read(&header[..cut]), Ok(None));
                }
            }
        }

        #[test]
        fn anything_at_all_is_done_refused_or_needs_more(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(&bytes);
            let _ = read(&[&SIGNATURE[..], &bytes].concat());
            let _ = read(&[&b"PROXY "[..], &bytes].concat());
        }
    }

    #[test]
    fn who_speaks_for_itself_is_the_proxy() {
        let client = IpAddr::from([192, 0, 2, 1]);
        assert_eq!(parse(&v2_of(client, 0, &[])), Ok(Progress::Done(Source::Proxy)), "LOCAL");
        assert_eq!(parse(b"PROXY UNKNOWN\r\n"), Ok(Progress::Done(Source::Proxy)));
        assert_eq!(read(b"PROXY UNKNOWN ffff::1 ::2 1 2\r\n"), Ok(Some((Source::Proxy, 31))));
        let unspecified = [SIGNATURE, &[0x21, 0x00, 0, 0][..]].concat();
        assert_eq!(parse(&unspecified), Ok(Progress::Done(Source::Proxy)));
    }

    #[test]
    fn what_is_no_header_is_refused() {
        let malformed = |bytes: &[u8]| matches!(read(bytes), Err(ProxyError::Malformed(_)));
        for line in [
            "PROXY TCP4 ::1 192.0.2.2 1 2\r\n",
            "PROXY TCP6 192.0.2.1 192.0.2.2 1 2\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 1\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 1 2 3\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 1 70000\r\n",
            "PROXY UDP4 192.0.2.1 192.0.2.2 1 2\r\n",
            &format!("PROXY TCP4 192.0.2.1 {} 1 2\r\n", "1".repeat(100)),
        ] {
            assert!(malformed(line.as_bytes()), "{line}");
        }
        let mut header = v2_of([192, 0, 2, 1].into(), 1, &[]);
        header[15] = 11;
        assert!(malformed(&header), "shorter than its addresses");
        for (at, byte) in [(12, 0x11), (12, 0x22), (13, 0x41), (14, 0xff)] {
            let mut header = v2_of([192, 0, 2, 1].into(), 1, &[]);
            header[at] = byte;
            assert!(malformed(&header), "{byte:#x} at {at}");
        }
        for other in [&b"GET /ws HTTP/1.1\r\n"[..], b"PRI * HTTP/2.0\r\n", b"PROXYTCP4 1.2.3.4\r\n"] {
            assert_eq!(read(other), Err(ProxyError::Absent));
        }
    }

    #[tokio::test]
    async fn the_reader_stops_at_the_end_of_the_header_however_it_comes() {
        let client = IpAddr::from([192, 0, 2, 1]);
        for header in [v1_of(client), v2_of(client, 1, &[7; 700])] {
            for piece in [1, 7, 4096] {
                let (mut proxy, mut gateway) = duplex(4096);
                let stream = [&header[..], b"hello"].concat();
                let write = async {
                    for piece in stream.chunks(piece) {
                        proxy.write_all(piece).await.expect("written");
                        tokio::task::yield_now().await;
                    }
                };
                let read = async {
                    let mut reader = Reader::default();
                    let source = poll_fn(|cx| reader.poll(&mut gateway, cx)).await.expect("a header");
                    let mut rest = [0; 5];
                    gateway.read_exact(&mut rest).await.expect("read");
                    (source, rest)
                };
                let ((), (source, rest)) = tokio::join!(write, read);
                assert_eq!((source, &rest), (Source::Client(client), b"hello"));
            }
        }
    }
}
