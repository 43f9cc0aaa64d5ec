//! Content reaches its recipients as its sender encoded it.

use bytes::{Buf as _, BufMut as _, Bytes};
use carillon_proto::pb::{
    client::{ClientFrame, Recipient, ServerFrame, recipient::To, server_frame},
    link::RawEnvelope,
};
use prost::Message;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Request, Status, Streaming,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
};

use crate::{
    client::sign_in,
    plays::{in_time, world},
};

/// carillon.client.v1.ClientFrame with a Send, of a release that knows more about content than this one.
#[derive(Clone, PartialEq, Message)]
struct NewerFrame {
    #[prost(message, optional, tag = "4")]
    send: Option<NewerSend>,
}

#[derive(Clone, PartialEq, Message)]
struct NewerSend {
    #[prost(string, tag = "1")]
    client_id: String,
    #[prost(message, optional, tag = "2")]
    to: Option<Recipient>,
    #[prost(bytes = "bytes", tag = "3")]
    content: Bytes,
}

/// carillon.client.v1.ServerFrame with a Deliver.
#[derive(Clone, PartialEq, Message)]
struct DeliverFrame {
    #[prost(message, optional, tag = "5")]
    deliver: Option<Deliver>,
}

#[derive(Clone, PartialEq, Message)]
struct Deliver {
    #[prost(message, optional, tag = "3")]
    envelope: Option<RawEnvelope>,
}

/// A text, and something in field 99.
const CONTENT: &[u8] = b"\x0a\x04\x0a\x02hi\x9a\x06\x03new";

fn send(client_id: &str) -> Vec<u8> {
    let to = Some(Recipient { to: Some(To::User("bob".to_owned())) });
    let send = NewerSend { client_id: client_id.to_owned(), to, content: Bytes::from_static(CONTENT) };
    NewerFrame { send: Some(send) }.encode_to_vec()
}

fn delivered(frame: &[u8]) -> Bytes {
    let frame = DeliverFrame::decode(frame).expect("decodes");
    frame.deliver.expect("a Deliver").envelope.expect("an envelope").content
}

#[derive(Clone, Copy, Default)]
struct Bare;

impl Codec for Bare {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for Bare {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        out.put(item);
        Ok(())
    }
}

impl Decoder for Bare {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}

/// A client over gRPC that reads and writes bytes.
struct BareClient {
    says: mpsc::Sender<Bytes>,
    hears: Streaming<Bytes>,
}

impl BareClient {
    async fn signed_in(address: std::net::SocketAddr, user: &str) -> Self {
        let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{address}")).expect("an address");
        let mut grpc = Grpc::new(endpoint.connect().await.expect("connects"));
        grpc.ready().await.expect("ready");
        let (says, frames) = mpsc::channel(8);
        let path = "/carillon.client.v1.ClientService/Connect".parse().expect("a path");
        let frame = ClientFrame { body: Some(sign_in(user, "server")) };
        says.send(frame.encode_to_vec().into()).await.expect("open");
        let request = Request::new(ReceiverStream::new(frames));
        let hears = in_time(grpc.streaming(request, path, Bare)).await.expect("answers").into_inner();
        let mut client = Self { says, hears };
        let frame = ServerFrame::decode(client.next().await).expect("decodes");
        assert!(matches!(frame.body, Some(server_frame::Body::SignedIn(_))), "{frame:?}");
        client
    }

    async fn next(&mut self) -> Bytes {
        in_time(self.hears.message()).await.expect("not broken").expect("not the end")
    }
}

#[tokio::test]
async fn content_passes_through_unread_on_each_carrier() {
    let world = world(|_| {}).await;
    let mut alice = world.client("alice", "phone").await;
    let mut bob = world.client("bob", "phone").await;
    let mut backend = BareClient::signed_in(world.gateway.grpc_address().expect("on"), "bob").await;

    let frame = send("over tcp");
    let mut delimited = Vec::new();
    prost::encode_length_delimiter(frame.len(), &mut delimited).expect("a Vec grows");
    delimited.extend(frame);
    alice.raw(&delimited).await;
    assert_eq!(delivered(&bob.frame().await.expect("not the end")), CONTENT, "TCP");
    assert_eq!(delivered(&backend.next().await), CONTENT, "gRPC");
    assert!(matches!(alice.hears().await, server_frame::Body::Accepted(_)));

    backend.says.send(send("over gRPC").into()).await.expect("open");
    // To itself: its other device hears it.
    assert_eq!(delivered(&bob.frame().await.expect("not the end")), CONTENT, "from gRPC");
    drop((alice, bob, backend));
    world.end().await;
}
