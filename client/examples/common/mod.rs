//! Two signed-in users, shared by the examples.

use std::{error::Error, time::Duration};

use carillon_client::{Address, Client, ClientConfig, Credential, Event, Events};
use carillon_proto::{
    Position, TimelineId, UserId,
    pb::client::{Accepted, Envelope},
    tasks::Tasks,
};

pub(crate) type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct User {
    pub(crate) name: UserId,
    pub(crate) client: Client,
    pub(crate) events: Events,
}

#[allow(dead_code, reason = "each example uses a part")]
impl User {
    pub(crate) async fn sign_in(address: &Address, name: &str, token: &str) -> Result<Self> {
        let config = ClientConfig::new(vec![address.clone()], name, "example", Credential::Token(token.to_owned()));
        let (client, events) = Client::open(config, &Tasks::new())?;
        client.connected(PATIENCE).await?;
        Ok(Self { name: UserId::new(name)?, client, events })
    }

    pub(crate) fn inbox(&self) -> TimelineId {
        TimelineId::Inbox(self.name.clone())
    }

    /// The first event about which `wanted` has something to say; others are passed over.
    pub(crate) async fn event<T>(&mut self, mut wanted: impl FnMut(&Event) -> Option<T>) -> Result<T> {
        let found = async {
            loop {
                match self.events.next().await {
                    Some(event) => match wanted(&event) {
                        Some(found) => return Ok(found),
                        None => continue,
                    },
                    None => return Err("the client has ended".into()),
                }
            }
        };
        tokio::time::timeout(PATIENCE, found).await?
    }

    /// Waits for a message by the answer that its sender got.
    pub(crate) async fn receives(&mut self, sent: &Accepted) -> Result<(TimelineId, Position, Envelope)> {
        let id = sent.message_id.clone();
        self.event(|event| match event {
            Event::Delivered { timeline, position, envelope } if envelope.id == id => {
                Some((timeline.clone(), *position, envelope.clone()))
            }
            _ => None,
        })
        .await
    }
}

/// Alice and Bob, by the arguments URL, USER, TOKEN, USER and TOKEN. `carillon token USER` prints a token.
#[allow(dead_code, reason = "the test of the examples brings its own users")]
pub(crate) async fn two_users() -> Result<(User, User)> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [url, alice, alices_token, bob, bobs_token] = &arguments[..] else {
        return Err("the arguments are URL USER TOKEN USER TOKEN".into());
    };
    let address = url.parse()?;
    Ok((User::sign_in(&address, alice, alices_token).await?, User::sign_in(&address, bob, bobs_token).await?))
}
