//! A connection of the client: frames on TCP or on a WebSocket, in the encoding that the client has chosen.

use std::{io, time::Duration};

use bytes::{Buf as _, BytesMut};
use carillon_gateway::reading;
use carillon_proto::{
    limits,
    pb::client::{ClientFrame, Code},
};
use futures_util::{SinkExt as _, StreamExt as _};
use prost::Message as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Message,
        protocol::{CloseFrame, frame::coding::CloseCode},
    },
};

use crate::{Outgoing, frames::unknown_name};

/// A frame, or the end, of a connection, as the client makes it.
#[derive(Debug)]
pub(crate) enum Heard {
    /// A frame, and its size in bytes.
    Frame(Box<ClientFrame>, usize),
    /// The bytes are no frame: the reason in words.
    NoFrame(String),
    /// The connection has ended.
    End,
}

pub(crate) enum Carrier {
    Tcp { stream: TcpStream, read: BytesMut },
    WebSocket { socket: Box<WebSocketStream<TcpStream>>, json: bool },
}

impl Carrier {
    pub(crate) fn tcp(stream: TcpStream) -> Self {
        Self::Tcp { stream, read: BytesMut::new() }
    }

    /// The client's next frame or end. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Heard {
        match self {
            Self::Tcp { stream, read } => loop {
                match take_frame(read) {
                    Ok(Some(frame)) => {
                        let size = frame.len();
                        return match ClientFrame::decode(frame.freeze()) {
                            Ok(frame) => Heard::Frame(Box::new(frame), size),
                            Err(error) => Heard::NoFrame(format!("a frame is not protobuf: {error}")),
                        };
                    }
                    Ok(None) => {}
                    Err(why) => return Heard::NoFrame(why),
                }
                match stream.read_buf(read).await {
                    Ok(0) | Err(_) => return Heard::End,
                    Ok(_) => {}
                }
            },
            Self::WebSocket { socket, json } => loop {
                match socket.next().await {
                    Some(Ok(Message::Binary(bytes))) if !*json => {
                        let size = bytes.len();
                        return match ClientFrame::decode(bytes) {
                            Ok(frame) => Heard::Frame(Box::new(frame), size),
                            Err(error) => Heard::NoFrame(format!("a message is not protobuf: {error}")),
                        };
                    }
                    Some(Ok(Message::Text(text))) if *json => {
                        return match from_json(&text) {
                            Ok(frame) => Heard::Frame(Box::new(frame), text.len()),
                            Err(why) => Heard::NoFrame(why),
                        };
                    }
                    Some(Ok(Message::Binary(_))) => {
                        return Heard::NoFrame("a binary message on carillon.v1.json".to_owned());
                    }
                    Some(Ok(Message::Text(_))) => {
                        return Heard::NoFrame("a text message on carillon.v1.proto".to_owned());
                    }
                    Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
                    Some(Ok(Message::Close(_)) | Err(_)) | None => return Heard::End,
                }
            },
        }
    }

    /// Sends frames in one write.
    pub(crate) async fn send(&mut self, frames: &[Outgoing]) -> io::Result<()> {
        match self {
            Self::Tcp { stream, .. } => {
                let mut bytes = Vec::new();
                frames.iter().for_each(|frame| put_frame(frame, &mut bytes));
                stream.write_all(&bytes).await
            }
            Self::WebSocket { socket, json } => {
                for frame in frames {
                    let message =
                        if *json { Message::text(frame.json.clone()) } else { Message::binary(frame.protobuf.clone()) };
                    socket.feed(message).await.map_err(io::Error::other)?;
                }
                socket.flush().await.map_err(io::Error::other)
            }
        }
    }

    /// Sends the first half of a frame, as a connection does that breaks.
    pub(crate) async fn send_half(&mut self, frame: &Outgoing) -> io::Result<()> {
        match self {
            Self::Tcp { stream, .. } => {
                let mut bytes = Vec::new();
                put_frame(frame, &mut bytes);
                stream.write_all(&bytes[..bytes.len() / 2]).await
            }
            Self::WebSocket { socket, json } => {
                let payload = if *json { frame.json.as_bytes() } else { &frame.protobuf };
                let mut bytes = vec![if *json { 0x81 } else { 0x82 }, 126];
                bytes.extend(u16::try_from(payload.len()).map_err(io::Error::other)?.to_be_bytes());
                bytes.extend(&payload[..payload.len() / 2]);
                socket.get_mut().write_all(&bytes).await
            }
        }
    }

    /// Ends the connection in order, after a Bye with this code.
    pub(crate) async fn close(mut self, bye: Code, reason: &str) {
        // The client may be gone already.
        let _ = tokio::time::timeout(Duration::from_secs(1), async {
            match &mut self {
                Self::Tcp { stream, .. } => stream.shutdown().await.map_err(drop),
                Self::WebSocket { socket, .. } => {
                    let code = CloseCode::from(reading::close_code(bye));
                    let frame = CloseFrame { code, reason: reason.into() };
                    socket.send(Message::Close(Some(frame))).await.map_err(drop)
                }
            }
        })
        .await;
        // Until the client has closed its side, so that what it has sent does not take the Bye away from it.
        let _ =
            tokio::time::timeout(Duration::from_secs(1), async { while !matches!(self.next().await, Heard::End) {} })
                .await;
    }
}

/// As the gateway reads it, and without names that it would pass over.
fn from_json(text: &str) -> Result<ClientFrame, String> {
    let frame = reading::read_json(text)?;
    let given = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let canonical = serde_json::to_value(&frame).map_err(|error| error.to_string())?;
    unknown_name(&given, &canonical).map_err(|why| format!("{why}, in {text}"))?;
    Ok(frame)
}

fn take_frame(read: &mut BytesMut) -> Result<Option<BytesMut>, String> {
    let mut length = 0_u64;
    for (at, byte) in read.iter().take(5).enumerate() {
        length |= u64::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            if length > limits::MAX_FRAME_BYTES as u64 {
                return Err(format!("a frame of {length} bytes"));
            }
            let prefix = at + 1;
            if read.len() < prefix + length as usize {
                return Ok(None);
            }
            read.advance(prefix);
            return Ok(Some(read.split_to(length as usize)));
        }
    }
    if read.len() < 5 { Ok(None) } else { Err("the length of a frame is no varint of at most 5 bytes".to_owned()) }
}

fn put_frame(frame: &Outgoing, out: &mut Vec<u8>) {
    prost::encoding::encode_varint(frame.protobuf.len() as u64, out);
    out.extend_from_slice(&frame.protobuf);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build;
    use serde_json::json;

    #[test]
    fn a_frame_is_taken_when_it_is_whole() {
        let frame = build(&json!({"bye": {"reason": "x".repeat(300)}}), false).expect("a frame");
        let mut bytes = Vec::new();
        put_frame(&frame, &mut bytes);
        let mut read = BytesMut::from(&bytes[..100]);
        assert_eq!(take_frame(&mut read), Ok(None));
        read.extend_from_slice(&bytes[100..]);
        read.extend_from_slice(&[1]);
        assert_eq!(take_frame(&mut read).expect("valid").as_deref(), Some(&frame.protobuf[..]));
        assert_eq!(take_frame(&mut read), Ok(None));
        take_frame(&mut BytesMut::from(&[0xff; 5][..])).expect_err("no length");
        take_frame(&mut BytesMut::from(&[0xff, 0xff, 0xff, 0x7f][..])).expect_err("too long");
    }

    #[test]
    fn a_misspelt_name_is_told() {
        from_json(r#"{"ping": {"nonce": "1"}}"#).expect("a frame");
        from_json(r#"{"send": {"client_id": "1", "after": null}}"#).expect("a frame");
        let why = from_json(r#"{"send": {"clientID": "1"}}"#).expect_err("no such name");
        assert!(why.contains("clientID"), "{why}");
    }
}
