//! A cache of recent duplicate keys: of several messages in flight, each names the one before.

use std::hash::BuildHasher as _;

use carillon_proto::{ClientId, DeviceId, DuplicateKey, InvalidId, Keyed, UserId};

/// Pairs of device and recipient whose last key is cached, some 300 bytes each. The cache is direct-mapped: a new pair
/// replaces the one in its place.
const PLACES: usize = 1024;

/// A cached key equals a recomputed one, and saves two or three hashes.
pub(crate) struct RecentKeys {
    places: Box<[Option<(Named, DuplicateKey)>]>,
    hasher: Keyed,
}

/// Everything that a key is made of.
#[derive(PartialEq, Eq)]
struct Named {
    sender: UserId,
    incarnation: u64,
    device: DeviceId,
    client_id: ClientId,
}

/// The keys of messages from one device to one recipient.
pub(crate) struct KeysOf<'a> {
    place: &'a mut Option<(Named, DuplicateKey)>,
    pub(crate) sender: UserId,
    incarnation: u64,
    device: DeviceId,
}

impl RecentKeys {
    pub(crate) fn new() -> Self {
        Self { places: (0..PLACES).map(|_| None).collect(), hasher: Keyed::default() }
    }

    /// `incarnation`: of the sender's account.
    pub(crate) fn of(
        &mut self,
        sender: &str,
        incarnation: u64,
        device: &str,
        recipient: &UserId,
    ) -> Result<KeysOf<'_>, InvalidId> {
        let place = self.hasher.hash_one((sender, device, recipient)) as usize % PLACES;
        let place = &mut self.places[place];
        let (sender, device) = match place {
            Some((named, _)) if named.sender.as_str() == sender && named.device.as_str() == device => {
                (named.sender.clone(), named.device.clone())
            }
            _ => (UserId::new(sender)?, DeviceId::new(device)?),
        };
        Ok(KeysOf { place, sender, incarnation, device })
    }
}

impl KeysOf<'_> {
    /// The key of the message that has just arrived. The next one may name it.
    pub(crate) fn key(&mut self, client_id: ClientId) -> DuplicateKey {
        let key = self.made(&client_id);
        let (sender, device) = (self.sender.clone(), self.device.clone());
        *self.place = Some((Named { sender, incarnation: self.incarnation, device, client_id }, key));
        key
    }

    /// The key of the previous message, which a message names.
    pub(crate) fn key_before(&self, client_id: &str) -> Result<DuplicateKey, InvalidId> {
        Ok(match &*self.place {
            Some((named, key))
                if named.client_id.as_str() == client_id
                    && named.incarnation == self.incarnation
                    && named.sender == self.sender
                    && named.device == self.device =>
            {
                *key
            }
            _ => self.made(&ClientId::new(client_id)?),
        })
    }

    fn made(&self, client_id: &ClientId) -> DuplicateKey {
        DuplicateKey::new(&self.sender, &self.device, client_id).of_incarnation(self.incarnation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_the_same_whether_it_was_kept_or_not() {
        let mut keys = RecentKeys::new();
        let user = |name| UserId::new(name).expect("valid");
        let (bob, names) = (user("bob"), ["a", "b"]);
        for kept in [true, false] {
            for number in 0..24u64 {
                let name = |bit: u64| names[(number >> bit & 1) as usize];
                let (sender, incarnation) = (user(name(0)), number / 8);
                let device = DeviceId::new(name(1)).expect("valid");
                let client_id = ClientId::new(name(2)).expect("valid");
                let key = DuplicateKey::new(&sender, &device, &client_id).of_incarnation(incarnation);
                let mut keys = keys.of(sender.as_str(), incarnation, device.as_str(), &bob).expect("valid");
                if kept {
                    assert_eq!(keys.key(client_id.clone()), key);
                }
                assert_eq!(keys.key_before(client_id.as_str()), Ok(key));
            }
        }
        // All in one place.
        let id = |id: &str| ClientId::new(id).expect("valid");
        let first = keys.of("alice", 1, "phone", &bob).expect("valid").key(id("1"));
        assert_ne!(keys.of("alice", 1, "phone", &bob).expect("valid").key(id("2")), first);
        assert_eq!(keys.of("alice", 1, "phone", &bob).expect("valid").key_before("1"), Ok(first));
        assert!(keys.of("alice", 1, "phone", &bob).expect("valid").key_before("").is_err());
        assert!(keys.of("Alice", 1, "phone", &bob).is_err() && keys.of("alice", 1, "", &bob).is_err());
    }
}
