//! Contacts of the store in memory: rows, without the rules of RFC 6121.

use std::collections::BTreeMap;

use carillon_proto::pb::store::{
    ChangeContact, Contact, ContactChanged, ContactsRead, ReadContacts, Rejected, Said, StoreError, UntoldRead, Word,
    change_contact::Change, contacts_read, rejected, store_error::Why, store_reply::Result as Reply, untold_read,
};

/// By user and contact.
#[derive(Default)]
pub(super) struct Contacts(BTreeMap<(String, String), Contact>);

impl Contacts {
    pub(super) fn put(&mut self, user: &str, contact: &str, row: Contact) {
        self.0.insert((user.to_owned(), contact.to_owned()), row);
    }

    pub(super) fn row(&self, user: &str, contact: &str) -> Option<Contact> {
        self.0.get(&(user.to_owned(), contact.to_owned())).cloned()
    }

    pub(super) fn change(&mut self, change: &ChangeContact, exists: bool) -> Reply {
        if !exists {
            let (reason, detail) = (rejected::Reason::NotFound.into(), "nobody".to_owned());
            let rejected = Rejected { reason, detail, ..Rejected::default() };
            return Reply::Error(StoreError { why: Some(Why::Rejected(rejected)) });
        }
        let row = self.0.entry((change.user.clone(), change.contact.clone())).or_default();
        let before = row.version;
        match change.change.as_ref().expect("set") {
            Change::Say(said) => {
                row.version += 1;
                (row.listed, row.asked) = (true, said.word() == Word::Subscribe);
                let said = Said { number: row.version, word: said.word, text: said.text.clone(), answers: 0 };
                row.untold.push(said);
            }
            Change::Heard(heard) => {
                row.version += 1;
                row.asks = heard.said.iter().any(|said| said.word() == Word::Subscribe);
            }
            Change::Told(told) => {
                row.untold.retain(|said| said.number > told.upto);
                row.asked &= !told.failed;
            }
            other => panic!("not asked here: {other:?}"),
        }
        let changed = row.version > before;
        let contact = Some(row.clone());
        Reply::ContactChanged(ContactChanged { contact, version: row.version, before, changed, incarnation: 0 })
    }

    pub(super) fn read(&self, read: &ReadContacts) -> Reply {
        let rows = self.0.iter().filter(|((user, _), _)| *user == read.user);
        let rows =
            rows.map(|((_, contact), row)| contacts_read::Row { contact: contact.clone(), row: Some(row.clone()) });
        Reply::ContactsRead(ContactsRead { contacts: rows.collect(), complete: true, ..ContactsRead::default() })
    }

    /// `is_here`: the user is of the shard that is asked.
    pub(super) fn untold(&self, is_here: impl Fn(&str) -> bool) -> Reply {
        let rows = self.0.iter().filter(|((user, _), row)| is_here(user) && !row.untold.is_empty());
        let row = |((user, contact), row): (&(String, String), &Contact)| untold_read::Row {
            user: user.clone(),
            incarnation: 0,
            contact: contact.clone(),
            row: Some(row.clone()),
        };
        Reply::UntoldRead(UntoldRead { rows: rows.map(row).collect(), next: Vec::new().into() })
    }
}
