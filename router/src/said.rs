//! Notices between owners of users about contacts and presence, and of workers about scheduled messages. Each may be lost, and is said again
//! later.

use std::collections::BTreeMap;

use carillon_proto::pb::{
    link::{ContactNews, Presences, Probe, ScheduledNews},
    store::Person,
};
use prost::Message as _;

use crate::presence::audience::PresenceUpdate;

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Said {
    Presences(Presences),
    /// Presence of one user, for those who see it.
    Update(Box<PresenceUpdate>),
    Probe(Probe),
    News(Box<ContactNews>),
    Scheduled(ScheduledNews),
}

impl Said {
    /// The parts for the owners of the users, each of whom `owner` names.
    pub(crate) fn split<K: Ord>(self, owner: impl Fn(&str) -> K) -> BTreeMap<K, Self> {
        match self {
            Self::Presences(Presences { presences, to, asked }) => by(to, owner)
                .into_iter()
                .map(|(owner, to)| (owner, Self::Presences(Presences { presences: presences.clone(), to, asked })))
                .collect(),
            Self::Update(update) => Self::Presences((*update).into()).split(owner),
            Self::Probe(Probe { from, of, last_seen }) => by(of, owner)
                .into_iter()
                .map(|(owner, of)| (owner, Self::Probe(Probe { from: from.clone(), of, last_seen })))
                .collect(),
            Self::News(news) => {
                let of = owner(news.user.as_ref().map_or("", |user| &user.user));
                BTreeMap::from([(of, Self::News(news))])
            }
            Self::Scheduled(news) => {
                let of = owner(news.user.as_ref().map_or("", |user| &user.user));
                BTreeMap::from([(of, Self::Scheduled(news))])
            }
        }
    }

    /// Approximate encoded size, in bytes.
    pub(crate) fn size(&self) -> usize {
        let people = |people: &[Person]| people.iter().map(|person| person.user.len() + 16).sum::<usize>();
        match self {
            Self::Presences(Presences { presences, to, .. }) => {
                let each = presences.iter().map(|presence| presence.user.len() + presence.status.len() + 32);
                64 + people(to) + each.sum::<usize>()
            }
            Self::Update(update) => 128 + update.presence.user.len() + update.presence.status.len() + update.to.bytes(),
            Self::Probe(Probe { of, .. }) => 64 + people(of),
            Self::News(_) => 4096,
            Self::Scheduled(news) => news.encoded_len(),
        }
    }
}

fn by<K: Ord>(people: Vec<Person>, owner: impl Fn(&str) -> K) -> BTreeMap<K, Vec<Person>> {
    let mut split: BTreeMap<K, Vec<Person>> = BTreeMap::new();
    for person in people {
        split.entry(owner(&person.user)).or_default().push(person);
    }
    split
}
