//! A bare relay: the same frames over TCP and nothing else. It is the physical limit of a message on this machine.
//!
//! One thread of the relay reads frames from one connection and writes them to another one. A frame that travels alone
//! costs two system calls and a wake-up; many frames that travel together cost nearly nothing.

use std::{
    io::{self, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use carillon_client::Client;
use carillon_proto::pb::client::{ClientFrame, Send, client_frame::Body};
use prost::Message as _;
use serde::{Deserialize, Serialize};

use crate::{
    measure::proc,
    payload::{Filling, Payload},
};

#[derive(Debug, Clone)]
pub struct RelayConfig {
    /// Size of a message's text.
    pub bytes: usize,
    /// Frames that travel together in the second part.
    pub batch: usize,
    /// Duration of each of the two parts.
    pub duration: Duration,
}

/// CPU time of the relay's thread for each message that it read and wrote, and messages a second.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RelayReport {
    pub frame_bytes: u64,
    /// For messages that are read and written one by one.
    pub alone_cpu_us: f64,
    pub alone_per_s: f64,
    pub batch: u64,
    /// For `batch` messages at a time.
    pub batched_cpu_us: f64,
    pub batched_per_s: f64,
}

/// Takes twice the duration.
pub fn measure(config: &RelayConfig) -> io::Result<RelayReport> {
    let frame = frame(config.bytes);
    let batch = config.batch.max(1);
    let alone = relay_frames(&frame, 1, config.duration)?;
    let batched = relay_frames(&frame, batch, config.duration)?;
    Ok(RelayReport {
        frame_bytes: frame.len() as u64,
        alone_cpu_us: alone.cpu_us,
        alone_per_s: alone.per_s,
        batch: batch as u64,
        batched_cpu_us: batched.cpu_us,
        batched_per_s: batched.per_s,
    })
}

struct Relayed {
    cpu_us: f64,
    per_s: f64,
}

/// A `Send` frame as a client writes it, with its length prefix.
fn frame(bytes: usize) -> Vec<u8> {
    let payload = Payload { run: "relay", sender: "alice", recipient: "bob", counter: 1, intended_us: 1 };
    let (to, content) = (Some(Client::user("bob")), Some(payload.to_content(bytes, Filling::Repeated)));
    let send =
        Send { client_id: "0123456789abcdef-1".to_owned(), to, content, after: String::new(), expires_after_ms: 0 };
    ClientFrame { body: Some(Body::Send(send)) }.encode_length_delimited_to_vec()
}

/// Sends `count` frames at once, waits until all have come back, and repeats.
fn relay_frames(frame: &[u8], count: usize, duration: Duration) -> io::Result<Relayed> {
    let (mut near, relay_in) = pair()?;
    let (relay_out, mut far) = pair()?;
    let relay = thread::spawn(move || relay(relay_in, relay_out));
    let sent = frame.repeat(count);
    let mut came = vec![0; sent.len()];
    let (began, mut messages) = (Instant::now(), 0u64);
    thread::scope(|scope| -> io::Result<()> {
        // While frames are read, another thread writes those that do not fit into the sockets' buffers.
        let (go, turns) = std::sync::mpsc::sync_channel::<()>(1);
        let writer = scope.spawn(move || -> io::Result<()> {
            for () in turns {
                near.write_all(&sent)?;
            }
            Ok(())
        });
        while began.elapsed() < duration && go.send(()).is_ok() {
            far.read_exact(&mut came)?;
            messages += count as u64;
        }
        drop(go);
        writer.join().map_err(|_| io::Error::other("the writing thread panicked"))?
    })?;
    let took = began.elapsed();
    let relayed = relay.join().map_err(|_| io::Error::other("the relay panicked"))??;
    if relayed.messages != messages {
        return Err(io::Error::other(format!("{} of {messages} messages were relayed", relayed.messages)));
    }
    let cpu_us = relayed.cpu_ns as f64 / 1000.0 / messages.max(1) as f64;
    Ok(Relayed { cpu_us, per_s: messages as f64 / took.as_secs_f64() })
}

struct RelayWork {
    messages: u64,
    cpu_ns: u64,
}

/// Relays until the end of the input.
fn relay(mut from: TcpStream, mut to: TcpStream) -> io::Result<RelayWork> {
    let began_ns = thread_cpu_ns()?;
    let (mut buffer, mut filled, mut messages) = (vec![0; 64 * 1024], 0, 0);
    loop {
        let read = from.read(&mut buffer[filled..])?;
        if read == 0 {
            return Ok(RelayWork { messages, cpu_ns: thread_cpu_ns()? - began_ns });
        }
        filled += read;
        let mut whole = 0;
        while let Some(length) = frame_length(&buffer[whole..filled]) {
            whole += length;
            messages += 1;
        }
        to.write_all(&buffer[..whole])?;
        buffer.copy_within(whole..filled, 0);
        filled -= whole;
        if filled == buffer.len() {
            buffer.resize(2 * filled, 0);
        }
    }
}

/// The length including the prefix; `None` if the prefix is not complete.
fn frame_length(bytes: &[u8]) -> Option<usize> {
    let mut rest = bytes;
    let length = prost::decode_length_delimiter(&mut rest).ok()?;
    let whole = bytes.len() - rest.len() + length;
    (whole <= bytes.len()).then_some(whole)
}

fn thread_cpu_ns() -> io::Result<u64> {
    proc::thread_cpu_ns().ok_or_else(|| io::Error::other("/proc/thread-self/schedstat does not tell CPU time"))
}

fn pair() -> io::Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind((IpAddr::V4(Ipv4Addr::LOCALHOST), 0))?;
    let near = TcpStream::connect(listener.local_addr()?)?;
    let (far, _) = listener.accept()?;
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    Ok((near, far))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn every_frame_comes_out_and_together_they_cost_less() {
        let config = RelayConfig { bytes: 256, batch: 64, duration: Duration::from_millis(200) };
        let report = measure(&config).expect("relayed");
        assert!(report.alone_cpu_us > 0.0 && report.batched_per_s > 0.0);
        assert!(report.batched_cpu_us < report.alone_cpu_us, "{report:?}");
    }

    #[test]
    fn frames_are_cut_where_they_end() {
        let frame = frame(256);
        assert_eq!(frame_length(&frame), Some(frame.len()));
        assert_eq!(frame_length(&frame[..frame.len() - 1]), None);
        assert_eq!(frame_length(&[]), None);
    }
}
