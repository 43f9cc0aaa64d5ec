//! How the state of a contact changes: RFC 6121, appendix A, and the words that have to be told. No keys, no rows.

use carillon_proto::pb::store::{Contact, ContactTold, HeardFromContact, Said, SayToContact, SetContact, Word};

/// Most words that wait until the contact is told them.
pub(crate) const UNTOLD: usize = 16;

/// Too many words wait.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Crowded;

/// A row that is being changed, and the version of the list, from which its words have their numbers.
pub(super) struct Changing<'a> {
    pub(super) row: &'a mut Contact,
    pub(super) version: &'a mut u64,
}

impl Changing<'_> {
    pub(super) fn set(&mut self, set: &SetContact) {
        self.row.name.clone_from(&set.name);
        self.row.labels.clone_from(&set.labels);
        self.row.listed = true;
    }

    /// RFC 6121, 2.5.2: the server also ends the subscriptions.
    pub(super) fn remove(&mut self) -> Result<(), Crowded> {
        let Contact { to, asked, from, asks, .. } = *self.row;
        if to || asked {
            self.tell(Word::Unsubscribe, "")?;
        }
        if from || asks {
            self.tell(Word::Unsubscribed, "")?;
        }
        self.no_subscription();
        self.row.approved = false;
        self.row.listed = false;
        self.row.name.clear();
        self.row.labels.clear();
        Ok(())
    }

    /// RFC 6121, A.2.
    pub(super) fn say(&mut self, said: &SayToContact) -> Result<(), Crowded> {
        if let Some(peer) = said.peer {
            self.meet(peer);
        }
        match said.word() {
            Word::Subscribe => {
                self.tell(Word::Subscribe, &said.text)?;
                self.row.asked = !self.row.to;
                self.row.asked_at = *self.version;
                self.row.listed = true;
            }
            Word::Unsubscribe => {
                self.tell(Word::Unsubscribe, "")?;
                (self.row.to, self.row.asked) = (false, false);
            }
            Word::Subscribed if self.row.asks => {
                self.tell(Word::Subscribed, "")?;
                self.asks_no_more();
                self.row.from = true;
                self.row.listed = true;
            }
            // RFC 6121, 3.4: approved before it was asked for.
            Word::Subscribed if !self.row.from => {
                self.row.approved = true;
                self.row.listed = true;
            }
            Word::Unsubscribed if self.row.from || self.row.asks => {
                self.tell(Word::Unsubscribed, "")?;
                self.asks_no_more();
                self.row.from = false;
                self.row.approved = false;
            }
            Word::Unsubscribed => self.row.approved = false,
            Word::Subscribed | Word::Unspecified => {}
        }
        Ok(())
    }

    pub(super) fn hear(&mut self, heard: &HeardFromContact) -> Result<(), Crowded> {
        if self.row.met && self.row.peer > heard.peer {
            return Ok(());
        }
        self.meet(heard.peer);
        for said in &heard.said {
            if said.number > self.row.heard {
                self.row.heard = said.number;
                self.hear_word(said)?;
            }
        }
        Ok(())
    }

    /// RFC 6121, A.3. A word that was said before the contact had heard the last request is no answer to it.
    fn hear_word(&mut self, said: &Said) -> Result<(), Crowded> {
        let answers_the_last = said.answers >= self.row.asked_at;
        match said.word() {
            Word::Subscribe if self.row.from => self.tell(Word::Subscribed, "")?,
            Word::Subscribe if self.row.approved => {
                self.tell(Word::Subscribed, "")?;
                self.row.from = true;
            }
            Word::Subscribe if !self.row.asks => {
                self.row.asks = true;
                self.row.text.clone_from(&said.text);
            }
            Word::Unsubscribe => {
                self.asks_no_more();
                self.row.from = false;
            }
            Word::Subscribed if self.row.asked && answers_the_last => (self.row.to, self.row.asked) = (true, false),
            // The request was taken back, and the contact does not know it.
            Word::Subscribed if !self.row.asked && !self.row.to => self.tell(Word::Unsubscribe, "")?,
            Word::Unsubscribed if answers_the_last => (self.row.to, self.row.asked) = (false, false),
            // The contact has still to hear of the last request.
            Word::Unsubscribed if self.row.to => (self.row.to, self.row.asked) = (false, true),
            Word::Subscribe | Word::Subscribed | Word::Unsubscribed | Word::Unspecified => {}
        }
        Ok(())
    }

    pub(super) fn told(&mut self, told: &ContactTold) {
        if !self.row.met || self.row.peer != told.peer {
            return;
        }
        self.row.untold.retain(|said| said.number > told.upto);
        match (told.failed, told.full) {
            (true, false) => {
                self.another_owner();
                // Of an owner that has ended nothing counts any more, however late it comes.
                (self.row.met, self.row.peer, self.row.heard) = (true, told.peer, u64::MAX);
            }
            (true, true) => self.row.asked &= self.row.asked_at > told.upto,
            (false, _) => {}
        }
    }

    /// The user's account has ended: the contact has to know it.
    pub(super) fn end(&mut self) {
        let Contact { to, asked, from, asks, .. } = *self.row;
        // A word that the contact has still to be told may itself end a subscription.
        let untold = std::mem::take(&mut self.row.untold);
        let is_untold = |words: [Word; 2]| untold.iter().any(|said| words.contains(&said.word()));
        let asking = to || asked || is_untold([Word::Subscribe, Word::Unsubscribe]);
        let allowing = from || asks || is_untold([Word::Subscribed, Word::Unsubscribed]);
        let words = [(asking, Word::Unsubscribe), (allowing, Word::Unsubscribed)];
        for (_, word) in words.into_iter().filter(|(is_due, _)| *is_due) {
            // The queue is empty.
            let _ = self.tell(word, "");
        }
        let (met, heard, peer) = (self.row.met, self.row.heard, self.row.peer);
        let untold = std::mem::take(&mut self.row.untold);
        *self.row = Contact { met, heard, peer, untold, ..Contact::default() };
    }

    /// The name of the contact has this owner, or had it before the one whom the row is about.
    fn meet(&mut self, peer: u64) {
        if self.row.met && peer > self.row.peer {
            self.another_owner();
        }
        if !self.row.met {
            (self.row.met, self.row.peer) = (true, peer);
        }
    }

    /// What there was with the contact was with an earlier owner of the name.
    fn another_owner(&mut self) {
        self.no_subscription();
        self.row.approved = false;
        self.row.untold.clear();
        (self.row.met, self.row.peer, self.row.heard, self.row.asked_at) = (false, 0, 0, 0);
    }

    fn no_subscription(&mut self) {
        self.asks_no_more();
        (self.row.to, self.row.asked, self.row.from) = (false, false, false);
    }

    fn asks_no_more(&mut self) {
        self.row.asks = false;
        self.row.text.clear();
    }

    /// Nobody is told anything while it is not known who bears the name: then there is no subscription either.
    fn tell(&mut self, word: Word, text: &str) -> Result<(), Crowded> {
        if !self.row.met {
            return Ok(());
        }
        if self.row.untold.last().is_some_and(|last| last.word() == word) {
            // Said twice, it is told once.
            self.row.untold.pop();
        }
        if self.row.untold.len() >= UNTOLD {
            return Err(Crowded);
        }
        *self.version += 1;
        let (number, answers) = (*self.version, self.row.heard);
        self.row.untold.push(Said { number, word: word.into(), text: text.to_owned(), answers });
        Ok(())
    }
}

/// True if nothing has to be kept.
pub(super) fn is_empty(row: &Contact) -> bool {
    let Contact { listed, to, asked, from, asks, approved, untold, .. } = row;
    !(*listed || *to || *asked || *from || *asks || *approved) && untold.is_empty()
}

/// What the user's devices see.
pub(super) fn visible(row: &Contact) -> Contact {
    let mut seen = row.clone();
    (seen.version, seen.met, seen.peer, seen.heard, seen.asked_at) = (0, false, 0, 0, 0);
    seen.untold.clear();
    seen
}
