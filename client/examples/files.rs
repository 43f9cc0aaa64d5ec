//! Files: an upload, a message with it, and a download. The service needs a place for files (`media`).
//!
//! ```text
//! cargo run --example files -- ws://127.0.0.1:7411/ws alice "$(carillon token alice)" bob "$(carillon token bob)"
//! ```

pub(crate) mod common;

use std::io::Cursor;

use carillon_client::{Client, NewFile};
use carillon_proto::pb::client::{Content, Media, content::Body};
use common::{Result, User};

#[tokio::main]
#[allow(dead_code, reason = "the test of the examples calls the tour")]
async fn main() -> Result<()> {
    let (mut alice, mut bob) = common::two_users().await?;
    tour(&mut alice, &mut bob).await
}

pub(crate) async fn tour(alice: &mut User, bob: &mut User) -> Result<()> {
    let text = b"bread\nmilk\n".to_vec();
    let size_bytes = text.len() as u64;
    let new = NewFile { size_bytes, media_type: "text/plain".to_owned(), name: "shopping.txt".to_owned() };
    // Any file, or whatever can be read and set back, for the case that the upload has to go on after an interruption.
    let media = alice.client.upload(new, &mut Cursor::new(text.clone())).await?;

    let file = Media { caption: "for tonight".to_owned(), ..media };
    let content = Content { body: Some(Body::File(file)), ..Content::default() };
    let sent = alice.client.send(Client::user(bob.name.as_str()), content).await?;

    // Readers of the message can have the file: the message is named by its place.
    let (timeline, position, envelope) = bob.receives(&sent).await?;
    let Some(Body::File(file)) = envelope.content.and_then(|content| content.body) else {
        return Err("it is a file".into());
    };
    let mut bytes = Vec::new();
    let told = bob.client.download(&file.id, Some((&timeline, position.seq)), 0, &mut bytes).await?;
    assert_eq!((bytes, told.name.as_str()), (text, "shopping.txt"));
    Ok(())
}
