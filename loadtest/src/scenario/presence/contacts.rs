//! The making of contacts.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use carillon_client::{Client, ContactChange, FetchError};
use carillon_proto::UserId;
use futures_util::{StreamExt as _, TryStreamExt as _};

use super::{
    person::{KIND, Person, Scene},
    ring::Ring,
};
use crate::scenario::{Environment, RunError};

/// Users whose contacts are made at the same time.
const USERS: usize = 64;
/// Requests of a user without an answer.
const AT_ONCE: usize = 4;
/// Before something refused is tried again, at least.
const AGAIN: Duration = Duration::from_millis(100);
/// How often a request may be refused with "try again".
const TRIES: u32 = 600;
/// For words between users that are told later.
const PATIENCE: Duration = Duration::from_secs(60);

/// Makes everybody a contact of its neighbours. Returns when all lists say so.
pub(super) async fn make(environment: &Environment, scene: &Scene, people: &[Arc<Person>]) -> Result<(), RunError> {
    environment.recorder.set_phase("making contacts");
    each(environment, people, async |person, client| {
        let changes = scene.board.ring.contacts_of(person.number).map(|contact| scene.load.user(KIND, contact));
        let asks = futures_util::stream::iter(changes).map(|contact| befriend(&client, contact));
        asks.buffer_unordered(AT_ONCE).try_collect::<()>().await
    })
    .await?;
    environment.recorder.set_phase("reading contacts");
    each(environment, people, async |_, client| all_are_mutual(&client, scene.board.ring).await).await
}

async fn each(
    environment: &Environment,
    people: &[Arc<Person>],
    what: impl AsyncFn(&Person, Client) -> Result<(), String>,
) -> Result<(), RunError> {
    let all = futures_util::stream::iter(people.iter().map(Ok));
    all.try_for_each_concurrent(USERS, async |person| {
        let failed = |why: String| RunError::Contacts { user: person.name.clone(), why };
        if environment.ending.is_ended() {
            return Err(failed("the run has ended before".to_owned()));
        }
        let client = person.client().ok_or_else(|| failed("it is not signed in".to_owned()))?;
        what(person, client).await.map_err(failed)
    })
    .await
}

/// The contact may see this user, and this user asks to see the contact: when both have done that, they see each other.
async fn befriend(client: &Client, contact: String) -> Result<(), String> {
    let user = UserId::new(&contact).expect("a name that this program has made");
    for change in [ContactChange::Accept, ContactChange::Subscribe(String::new())] {
        let mut tries = 0;
        while let Err(error) = client.change_contact(&user, change.clone()).await {
            tries += 1;
            match error {
                FetchError::Refused(refusal) if refusal.retry && tries < TRIES => {
                    tokio::time::sleep(refusal.retry_after.max(AGAIN)).await;
                }
                FetchError::TimedOut if tries < TRIES => {}
                error => return Err(format!("{contact}: {error}")),
            }
        }
    }
    Ok(())
}

async fn all_are_mutual(client: &Client, ring: Ring) -> Result<(), String> {
    let give_up = Instant::now() + PATIENCE;
    loop {
        let why = match client.contacts().await {
            Ok(contacts) => match contacts.iter().filter(|contact| contact.to && contact.from).count() {
                all if all == ring.contacts => return Ok(()),
                some => format!("it sees {some} of {} contacts who see it", ring.contacts),
            },
            Err(error @ FetchError::Ended(_)) => return Err(error.to_string()),
            Err(error) => error.to_string(),
        };
        if Instant::now() >= give_up {
            return Err(why);
        }
        tokio::time::sleep(AGAIN * 5).await;
    }
}
