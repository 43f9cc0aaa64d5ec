//! A user's device at the gateways of a cluster, by the client library.

use std::time::{Duration, Instant};

use carillon_client::{Client, ClientConfig, Credential, Event, Events};
use carillon_proto::{
    TimelineId, UserId,
    pb::client::{Direction, Envelope, content::Body},
    tasks::Tasks,
};
use tokio::time::timeout;

use super::cluster::Cluster;

pub const PATIENCE: Duration = Duration::from_secs(90);

pub struct Device {
    pub client: Client,
    pub events: Events,
    pub user: UserId,
    _tasks: Tasks,
}

impl Device {
    pub async fn enter(cluster: &Cluster, gateways: &[usize], user: &str, device: &str) -> Self {
        Self::tries(cluster, gateways, user, device).await.expect("signs in")
    }

    pub async fn tries(cluster: &Cluster, gateways: &[usize], user: &str, device: &str) -> Result<Self, String> {
        let credential = Credential::Token(cluster.token(user));
        let addresses = gateways.iter().map(|gateway| cluster.addresses[*gateway].clone()).collect();
        let config = ClientConfig::new(addresses, user, device, credential);
        let tasks = Tasks::new();
        let (client, events) = Client::open(config, &tasks).expect("opens");
        client.connected(PATIENCE).await?;
        Ok(Self { client, events, user: UserId::new(user).expect("valid"), _tasks: tasks })
    }

    pub fn inbox(&self) -> TimelineId {
        TimelineId::Inbox(self.user.clone())
    }

    /// Waits for an event of which `is` gives something.
    pub async fn hears<T>(&mut self, what: &str, is: impl Fn(Event) -> Option<T>) -> T {
        let hears = async {
            loop {
                if let Some(heard) = is(self.events.next().await.expect("it goes on")) {
                    return heard;
                }
            }
        };
        timeout(PATIENCE, hears).await.unwrap_or_else(|_| panic!("{what} did not come"))
    }

    /// The message with this id, as history has it now.
    pub async fn reads(&self, timeline: &TimelineId, id: &str) -> Envelope {
        let until = Instant::now() + PATIENCE;
        loop {
            match self.client.fetch(timeline, Direction::Backward, 0, 100).await {
                Ok(page) => {
                    let mut envelopes = page.entries.into_iter().filter_map(|entry| entry.envelope);
                    return envelopes.find(|envelope| envelope.id == id).expect("it has its place");
                }
                Err(error) => assert!(Instant::now() < until, "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// The text of a message; empty for other contents.
pub fn said(envelope: &Envelope) -> &str {
    match envelope.content.as_ref().and_then(|content| content.body.as_ref()) {
        Some(Body::Text(text)) => &text.body,
        _ => "",
    }
}
