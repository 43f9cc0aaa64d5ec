//! Contacts of the small router: it keeps what it is asked.

use carillon_proto::pb::{
    link::{ReadContacts, router_reply::Result as Reply},
    store::ContactsRead,
};

use super::State;

impl State {
    pub(super) fn read_contacts(&self, read: &ReadContacts) -> Reply {
        let (version, contacts) = self.store.lock().contacts.get(&read.user).cloned().unwrap_or_default();
        let unchanged = read.known == version;
        let contacts = if unchanged { Vec::new() } else { contacts };
        Reply::ContactsRead(ContactsRead { version, contacts, complete: true, unchanged, ..ContactsRead::default() })
    }
}
