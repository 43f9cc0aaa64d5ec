//! Keys of contacts, and a value.

use std::io;

use super::{CONTACT, CONTACT_LIST, CONTACTS_END, RowBytes, UNTOLD, broken, key};

/// Neither user nor contact contains 0x00: both refuse control characters.
pub(crate) fn contact(user: &str, incarnation: u64, contact: &str) -> RowBytes {
    key(CONTACT, &[user.as_bytes(), &[0], &incarnation.to_be_bytes(), contact.as_bytes()])
}

/// The prefix of the contacts of this account.
pub(crate) fn contacts_of(user: &str, incarnation: u64) -> RowBytes {
    contact(user, incarnation, "")
}

pub(crate) fn contact_list(user: &str, incarnation: u64) -> RowBytes {
    key(CONTACT_LIST, &[user.as_bytes(), &[0], &incarnation.to_be_bytes()])
}

pub(crate) fn untold(user: &str, incarnation: u64, contact: &str) -> RowBytes {
    key(UNTOLD, &[user.as_bytes(), &[0], &incarnation.to_be_bytes(), contact.as_bytes()])
}

/// The prefix of all contacts who have to be told something.
pub(crate) fn all_untold() -> RowBytes {
    key(UNTOLD, &[])
}

pub(crate) fn contacts_end(user: &str, incarnation: u64) -> RowBytes {
    key(CONTACTS_END, &[user.as_bytes(), &[0], &incarnation.to_be_bytes()])
}

/// The prefix of the ended accounts of this name whose contacts are being told.
pub(crate) fn contacts_ends(user: &str) -> RowBytes {
    key(CONTACTS_END, &[user.as_bytes(), &[0]])
}

/// The prefix of all ended accounts whose contacts are being told.
pub(crate) fn all_contacts_ends() -> RowBytes {
    key(CONTACTS_END, &[])
}

/// User, incarnation and contact in any of these keys; the contact is empty where the key has none.
pub(crate) fn contact_of(key: &[u8]) -> io::Result<(&str, u64, &str)> {
    let parse = || {
        let (_, rest) = key.split_first()?;
        let end = rest.iter().position(|byte| *byte == 0)?;
        let (user, rest) = (&rest[..end], &rest[end + 1..]);
        let (incarnation, contact) = rest.split_first_chunk()?;
        let text = |bytes| std::str::from_utf8(bytes).ok();
        Some((text(user)?, u64::from_be_bytes(*incarnation), text(contact)?))
    };
    parse().ok_or_else(|| broken("key of a contact"))
}

/// The value of `CONTACTS_END`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ContactsEnd {
    /// Rows up to that of this contact were prepared.
    After(String),
    /// All rows were: what is left waits until it is told.
    Swept,
}

impl ContactsEnd {
    pub(crate) fn encode(&self) -> RowBytes {
        match self {
            Self::After(contact) => RowBytes::fused(&[0], contact.as_bytes()),
            Self::Swept => [1].into(),
        }
    }

    pub(crate) fn decode(value: &[u8]) -> io::Result<Self> {
        match value {
            [0, contact @ ..] => {
                let contact = String::from_utf8(contact.to_vec()).map_err(|_| broken("end of contacts"))?;
                Ok(Self::After(contact))
            }
            [1] => Ok(Self::Swept),
            _ => Err(broken("end of contacts")),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn keys_of_contacts_are_read_back(
            user in "[a-z0-9é.]{1,20}", other in "[a-z0-9é.]{1,20}", known in "[a-z0-9é.]{1,20}", of in any::<u64>(),
        ) {
            for key in [contact(&user, of, &known), untold(&user, of, &known)] {
                prop_assert_eq!(contact_of(&key).expect("reads"), (&*user, of, &*known));
            }
            for key in [contact_list(&user, of), contacts_end(&user, of)] {
                prop_assert_eq!(contact_of(&key).expect("reads"), (&*user, of, ""));
            }
            let row = contact(&user, of, &known);
            prop_assert!(row.starts_with(contacts_of(&user, of)) && untold(&user, of, &known).starts_with(all_untold()));
            prop_assert_eq!(row.starts_with(contacts_of(&other, of)), user == other);
            prop_assert!(!row.starts_with(contacts_of(&user, of ^ 1)));
            prop_assert_eq!(contacts_end(&user, of).starts_with(contacts_ends(&other)), user == other);
            for end in [ContactsEnd::After(known), ContactsEnd::After(String::new()), ContactsEnd::Swept] {
                prop_assert_eq!(ContactsEnd::decode(&end.encode()).expect("reads"), end);
            }
        }
    }
}
