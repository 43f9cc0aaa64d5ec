//! Two users whose messages are known one by one: one of them leaves and is erased, the other one stays.

use std::hash::{BuildHasher as _, RandomState};

use anyhow::Context as _;
use carillon_client::Client;
use carillon_proto::{
    Epoch, Position,
    pb::client::{Direction, Envelope, content::Body},
    tasks::Tasks,
};

use crate::scenario::{
    DEVICE, Target,
    read_back::{each_page, inbox_of},
};

pub(super) struct Letters {
    pub(super) leaver: String,
    pub(super) friend: String,
    /// Stands in each message of the leaver and nowhere else. Nothing can make it smaller.
    pub(super) marker: String,
}

/// How many each of the two writes.
const EACH: u64 = 100;

/// A message in an inbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Letter {
    pub(super) seq: u64,
    pub(super) sender: String,
    /// `None`: erased.
    pub(super) text: Option<String>,
}

impl Letters {
    /// The two write to each other in turn. Both inboxes have all of it, in the same order.
    pub(super) async fn write(
        name: &str,
        target: &Target,
        token: impl Fn(&str) -> String,
        tasks: &Tasks,
    ) -> anyhow::Result<Self> {
        let random = RandomState::new();
        let letters = Self {
            leaver: format!("{name}-leaver"),
            friend: format!("{name}-friend"),
            marker: format!("{:016x}{:016x}", random.hash_one(1), random.hash_one(2)),
        };
        let (leaver, friend) = (&letters.leaver, &letters.friend);
        let from_leaver = target.open_reader((leaver, DEVICE), &token(leaver), tasks).await?;
        let from_friend = target.open_reader((friend, DEVICE), &token(friend), tasks).await?;
        for number in 0..EACH {
            let text = letters.leavers(number);
            from_leaver.send(Client::user(friend), Client::text(&text)).await.context("a letter is not accepted")?;
            let text = friends(number);
            from_friend.send(Client::user(leaver), Client::text(&text)).await.context("a letter is not accepted")?;
        }
        from_leaver.close().await;
        from_friend.close().await;
        Ok(letters)
    }

    fn leavers(&self, number: u64) -> String {
        format!("letter {number} {}", self.marker)
    }

    /// The messages in both inboxes; after the erasure of the leaver, in the friend's alone.
    pub(super) fn expected(&self, erased: bool) -> Vec<Letter> {
        let two = |number: u64| {
            let text = (!erased).then(|| self.leavers(number));
            [
                Letter { seq: 2 * number + 1, sender: self.leaver.clone(), text },
                Letter { seq: 2 * number + 2, sender: self.friend.clone(), text: Some(friends(number)) },
            ]
        };
        (0..EACH).flat_map(two).collect()
    }

    /// Reads an inbox, and says in words what is not as expected.
    pub(super) async fn check(
        &self,
        user: &str,
        erased: bool,
        target: &Target,
        token: &str,
        tasks: &Tasks,
    ) -> anyhow::Result<Option<String>> {
        let client = target.open_reader((user, DEVICE), token, tasks).await?;
        let mut found = Vec::new();
        let read = each_page(&client, inbox_of(user), |page| {
            found.extend(page.entries.iter().filter_map(|entry| letter(entry.seq, entry.envelope.as_ref()?)));
        });
        read.await.with_context(|| format!("the inbox of {user} is not read"))?;
        client.close().await;
        Ok(difference(&self.expected(erased), &found).map(|what| format!("inbox of {user}: {what}")))
    }
}

fn friends(number: u64) -> String {
    format!("answer {number} of the friend who stays")
}

fn letter(seq: u64, envelope: &Envelope) -> Option<Letter> {
    let Some(Body::Text(text)) = &envelope.content.as_ref()?.body else { return None };
    let erased = envelope.erased && text.body.is_empty();
    Some(Letter { seq, sender: envelope.sender.clone(), text: (!erased).then(|| text.body.clone()) })
}

pub(super) fn difference(expected: &[Letter], found: &[Letter]) -> Option<String> {
    if expected.len() != found.len() {
        return Some(format!("{} messages instead of {}", found.len(), expected.len()));
    }
    let (wanted, there) = expected.iter().zip(found).find(|(wanted, there)| wanted != there)?;
    Some(format!("{there:?} instead of {wanted:?}"))
}

/// The last position of a user's inbox.
pub(super) async fn last_position(target: &Target, user: &str, token: &str, tasks: &Tasks) -> anyhow::Result<Position> {
    let client = target.open_reader((user, DEVICE), token, tasks).await?;
    let page = client.fetch(&inbox_of(user), Direction::Backward, 0, 1).await;
    let page = page.with_context(|| format!("the inbox of {user} is not read"))?;
    client.close().await;
    Ok(Position { epoch: Epoch(page.epoch), seq: page.last })
}

#[cfg(test)]
mod tests {
    use carillon_proto::pb::client::{Content, Text};

    use super::*;

    #[test]
    fn an_erased_letter_is_told_from_one_that_is_there_and_from_an_empty_one() {
        let letters = Letters { leaver: "l".into(), friend: "f".into(), marker: "m".into() };
        let (before, after) = (letters.expected(false), letters.expected(true));
        assert_eq!(before.len(), 2 * EACH as usize);
        assert_eq!(difference(&before, &before), None);
        assert!(difference(&after, &before).is_some_and(|what| what.contains("letter 0 m")));
        assert!(difference(&before, &before[1..]).is_some_and(|what| what.contains("199 messages")));
        let read = |body: &str, erased| {
            let content = Some(Content { body: Some(Body::Text(Text { body: body.into() })), ..Default::default() });
            letter(1, &Envelope { sender: "l".into(), content, erased, ..Envelope::default() })
        };
        assert_eq!(read("", true).as_ref(), Some(&after[0]));
        assert_ne!(read("", false).as_ref(), Some(&after[0]));
        assert_ne!(read("letter 0 m", true).as_ref(), Some(&after[0]), "it says that it is erased, and is not");
    }
}
