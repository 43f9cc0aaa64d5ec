//! The contacts that are told a user's presence, as the store said it last, split by the routers and partitions that tell them.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use carillon_proto::{
    KeyedMap, UserId,
    pb::{
        client::Presence,
        link::Presences,
        store::{ContactsRead, Person},
    },
};

use crate::topology::Topology;

/// Bytes of the audiences that a partition keeps: some 1,200 users with 200 contacts each. The store names the others' contacts with each change.
const BYTES: usize = 8 << 20;

/// The contacts that see a user. The store says with each change whether they are still the same.
pub(crate) struct Audience {
    incarnation: u64,
    /// Of the list of contacts and of the privacy settings; with 0 it can't be compared.
    pub(crate) version: u64,
    pub(crate) privacy_version: u64,
    /// By which the parts were made.
    ring_version: u64,
    parts: Vec<AudiencePart>,
}

/// The contacts of one partition of this router, or of another router.
pub(crate) struct AudiencePart {
    pub(crate) destination: Destination<Box<str>>,
    pub(crate) people: Arc<People>,
}

/// The owner of users.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Destination<A> {
    /// In this partition of this router.
    Here(usize),
    /// The address of another router.
    Elsewhere(A),
}

/// Users, each with the incarnation of its account. Names stand one behind the other: there are many.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct People {
    names: String,
    /// Of each the end of its name, and the incarnation.
    ends: Vec<(u32, u64)>,
}

/// Presence of a user, for those who see it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct PresenceUpdate {
    pub(crate) presence: Presence,
    pub(crate) to: Arc<People>,
}

/// Audiences of users who have shown something new. Those that were made first leave room for others.
#[derive(Default)]
pub(crate) struct Audiences {
    users: KeyedMap<UserId, Arc<Audience>>,
    /// Each of `users` once.
    order: VecDeque<UserId>,
    bytes: usize,
}

impl Audience {
    /// `partition`: the one of this router that owns the user of this name, if this router does.
    pub(crate) fn new(
        incarnation: u64,
        read: &ContactsRead,
        topology: &Topology,
        partition: impl Fn(&str) -> usize,
    ) -> Self {
        let mut parts: BTreeMap<Destination<&str>, People> = BTreeMap::new();
        for row in &read.contacts {
            let Some(contact) = row.row.as_ref().filter(|contact| contact.from) else { continue };
            let destination = match topology.elsewhere(&row.contact) {
                Some(address) => Destination::Elsewhere(address),
                None => Destination::Here(partition(&row.contact)),
            };
            parts.entry(destination).or_default().add(&row.contact, contact.peer);
        }
        let parts = parts.into_iter().map(|(destination, mut people)| {
            people.names.shrink_to_fit();
            people.ends.shrink_to_fit();
            let destination = match destination {
                Destination::Here(partition) => Destination::Here(partition),
                Destination::Elsewhere(address) => Destination::Elsewhere(address.into()),
            };
            AudiencePart { destination, people: Arc::new(people) }
        });
        let (version, privacy_version) = (read.version, read.privacy_version);
        let (ring_version, parts) = (topology.ring.version(), parts.collect());
        Self { incarnation, version, privacy_version, ring_version, parts }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// The parts by this ring; `None` if it is another one than that by which they were made.
    pub(crate) fn parts(&self, ring_version: u64) -> Option<&[AudiencePart]> {
        (self.ring_version == ring_version).then_some(&self.parts)
    }

    pub(crate) fn persons(&self) -> Vec<Person> {
        self.parts.iter().flat_map(|part| part.people.persons()).collect()
    }

    fn bytes(&self) -> usize {
        256 + self.parts.iter().map(|part| 128 + part.people.bytes()).sum::<usize>()
    }
}

impl People {
    pub(crate) fn add(&mut self, user: &str, incarnation: u64) {
        self.names.push_str(user);
        // A list has a bound far below.
        self.ends.push((u32::try_from(self.names.len()).unwrap_or(u32::MAX), incarnation));
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, u64)> {
        let mut begin = 0;
        self.ends.iter().map(move |(end, incarnation)| {
            let end = *end as usize;
            let name = self.names.get(begin..end).unwrap_or_default();
            begin = end;
            (name, *incarnation)
        })
    }

    pub(crate) fn persons(&self) -> impl Iterator<Item = Person> {
        self.iter().map(|(user, incarnation)| Person { user: user.to_owned(), incarnation })
    }

    /// In memory, and as much encoded at most.
    pub(crate) fn bytes(&self) -> usize {
        self.names.len() + 16 * self.ends.len()
    }
}

impl From<PresenceUpdate> for Presences {
    fn from(PresenceUpdate { presence, to }: PresenceUpdate) -> Self {
        Self { presences: vec![presence], to: to.persons().collect(), asked: false }
    }
}

impl Audiences {
    pub(crate) fn get(&self, user: &UserId, incarnation: u64) -> Option<Arc<Audience>> {
        self.users.get(user).filter(|audience| audience.incarnation == incarnation).cloned()
    }

    pub(crate) fn keep(&mut self, user: &UserId, audience: &Arc<Audience>) {
        if audience.version == 0 {
            return;
        }
        self.bytes += audience.bytes();
        match self.users.insert(user.clone(), Arc::clone(audience)) {
            Some(before) => self.bytes -= before.bytes(),
            None => self.order.push_back(user.clone()),
        }
        while self.bytes > BYTES {
            let Some(first) = self.order.pop_front() else { break };
            if let Some(gone) = self.users.remove(&first) {
                self.bytes -= gone.bytes();
            }
        }
    }

    /// The parts of all are outdated.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use carillon_proto::pb::store::{Contact, contacts_read::Row};

    use super::*;
    use crate::{part::part_of, topology::tests::topology};

    const PARTS: usize = 4;

    fn row(contact: &str, peer: u64, from: bool) -> Row {
        Row { contact: contact.to_owned(), row: Some(Contact { to: true, from, peer, ..Contact::default() }) }
    }

    fn read(version: u64, contacts: usize) -> ContactsRead {
        let contacts = (0..contacts).map(|n| row(&format!("user{n}"), n as u64, n % 3 != 0)).collect();
        ContactsRead { version, contacts, ..ContactsRead::default() }
    }

    #[test]
    fn everybody_who_sees_the_user_is_told_once_where_the_owner_is() {
        let (ring, read) = (topology(7, "here:1", &["here:1", "there:1"], &[]), read(1, 60));
        let audience = Audience::new(3, &read, &ring, |name| part_of(name, PARTS));
        assert!(audience.parts(8).is_none(), "by another ring");
        let parts = audience.parts(7).expect("by this ring");
        for AudiencePart { destination, people } in parts {
            for (user, _) in people.iter() {
                match destination {
                    Destination::Here(partition) => {
                        assert_eq!((ring.owns(user), part_of(user, PARTS)), (true, *partition))
                    }
                    Destination::Elsewhere(address) => assert_eq!(ring.elsewhere(user), Some(&**address)),
                }
            }
        }
        assert_eq!(parts.len(), PARTS + 1);
        let mut told: Vec<_> = audience.persons().into_iter().map(|person| (person.user, person.incarnation)).collect();
        told.sort();
        let sees = |row: &Row| row.row.as_ref().is_some_and(|contact| contact.from);
        let rows = read.contacts.iter().filter(|row| sees(row));
        let mut expected: Vec<_> =
            rows.map(|row| (row.contact.clone(), row.row.as_ref().map_or(0, |contact| contact.peer))).collect();
        expected.sort();
        assert_eq!(told, expected);
    }

    #[test]
    fn audiences_that_were_made_first_leave_room_for_others() {
        let ring = topology(7, "here:1", &["here:1"], &[]);
        let audience = |version, contacts| Arc::new(Audience::new(3, &read(version, contacts), &ring, |_| 0));
        let user = |n: usize| UserId::new(&format!("user{n}")).expect("valid");
        let (mut audiences, each) = (Audiences::default(), audience(1, 300));
        let fit = BYTES / each.bytes();
        for n in 0..fit + 10 {
            audiences.keep(&user(n), &each);
        }
        assert!(audiences.bytes <= BYTES && audiences.order.len() == fit);
        assert!(audiences.get(&user(9), 3).is_none() && audiences.get(&user(10), 3).is_some());
        assert!(audiences.get(&user(10), 4).is_none(), "of another owner of the name");
        // The same user again takes no other place.
        audiences.keep(&user(10), &audience(2, 3));
        assert_eq!(audiences.get(&user(10), 3).map(|audience| audience.version), Some(2));
        assert_eq!((audiences.order.len(), audiences.users.len()), (fit, fit));
        audiences.keep(&user(0), &audience(0, 3));
        assert!(audiences.get(&user(0), 3).is_none(), "nobody could say whether it is still so");
        let sum: usize = audiences.users.values().map(|audience| audience.bytes()).sum();
        assert_eq!(audiences.bytes, sum);
    }
}
