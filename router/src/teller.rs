//! Tells contacts what their users have said to them, and notes that they were told. What is left out here, because a router ends or
//! a shard does not answer, is found in the store and done by the worker of the shard. See docs/adr/0027-contacts.md.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use carillon_proto::{
    Level, ShardId, ShardKind, UserId, clock,
    pb::{
        link::{self, ContactNews},
        store::{
            ChangeContact, Contact, ContactChanged, ContactTold, DirectoryCommand, HeardFromContact, Person,
            ReadUntold, UntoldRead, change_contact::Change, directory_command, store_request::Op, untold_read,
        },
    },
};
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use tokio::sync::{mpsc, watch};

use crate::{
    partition::Partitions,
    peers::Peers,
    reply::{Answer, Failure, ReplySlot},
    said::Said,
    store::{Store, StoreAnswer, StoreFailure},
    topology::Topology,
};

/// Tellings that wait. Further ones are left to the worker.
pub(crate) const TELLINGS: usize = 1024;
/// Tellings under way.
const AT_ONCE: usize = 64;
/// Between two looks for what was left out.
const LOOK: Duration = Duration::from_secs(5);
/// Rows of one read.
const PAGE: u32 = 256;
/// Words and their answers that follow from one telling. There are hardly ever more than two.
const ROUNDS: usize = 8;

/// A row that has something to be told.
pub(crate) struct Telling {
    pub(crate) user: UserId,
    pub(crate) incarnation: u64,
    pub(crate) contact: UserId,
    pub(crate) row: Contact,
    /// Who waits until the contact has been told.
    pub(crate) slot: Option<ReplySlot>,
}

pub(crate) struct Teller {
    pub(crate) tellings: mpsc::Receiver<Telling>,
    pub(crate) telling: TellingContext,
}

#[derive(Clone)]
pub(crate) struct TellingContext {
    pub(crate) topology: watch::Receiver<Arc<Topology>>,
    pub(crate) store: Store,
    pub(crate) peers: Peers,
    pub(crate) partitions: Partitions,
    /// Of each call of the store.
    pub(crate) deadline: Duration,
}

/// A word that waits: its row's user, incarnation and contact, and its number.
type Seen = (String, u64, String, u64);

impl Teller {
    /// Runs as long as the router.
    pub(crate) async fn run(mut self) {
        let mut under_way = FuturesUnordered::new();
        let mut seen: BTreeSet<Seen> = BTreeSet::new();
        let mut look_at = clock::now() + LOOK;
        loop {
            // All branches are cancel-safe.
            tokio::select! {
                biased;
                Some(()) = under_way.next() => {}
                telling = self.tellings.recv(), if under_way.len() < AT_ONCE => {
                    let Some(telling) = telling else { return };
                    let context = self.telling.clone();
                    under_way.push(async move { context.tell(telling).await });
                }
                () = clock::sleep_until(look_at) => {
                    // What is under way is finished first, so that nothing is told twice without need.
                    while under_way.next().await.is_some() {}
                    seen = self.telling.tell_what_was_left(&seen).await;
                    look_at = clock::now() + LOOK;
                }
            }
        }
    }
}

impl TellingContext {
    async fn tell(&self, telling: Telling) {
        let Telling { user, incarnation, contact, row, slot } = telling;
        let outcome = self.tell_all(user, incarnation, contact, row).await;
        let Some(slot) = slot else { return };
        slot.answer(match outcome {
            // The change is stored, and will be told.
            Ok(()) | Err(Failure::Store(_)) => Answer::Done(link::Done {}),
            Err(failure) => failure.into(),
        });
    }

    /// Tells the contact, and whoever has to be told something because of that.
    async fn tell_all(&self, user: UserId, incarnation: u64, contact: UserId, row: Contact) -> Result<(), Failure> {
        let mut waiting = VecDeque::from([(user, incarnation, contact, row)]);
        let mut outcome = Ok(());
        for _ in 0..ROUNDS {
            let Some((user, incarnation, contact, row)) = waiting.pop_front() else { break };
            let (told, failure, theirs) = self.said_to(&user, incarnation, &contact, &row).await?;
            if let Err(failure) = failure {
                outcome = outcome.and(Err(failure));
            }
            if let Some((of, theirs)) = theirs {
                self.news(&contact, of, &user, &theirs).await;
                let row = theirs.contact.filter(|row| !row.untold.is_empty());
                waiting.extend(row.map(|row| (contact.clone(), of, user.clone(), row)));
            }
            let noted = self.change(&user, incarnation, &contact, Change::Told(told)).await?;
            self.news(&user, incarnation, &contact, &noted).await;
            let row = noted.contact.filter(|row| !row.untold.is_empty());
            waiting.extend(row.map(|row| (user, incarnation, contact, row)));
        }
        outcome
    }

    /// Says to the contact what it was not told: what is to be noted then, why it was not taken, and what has become of the contact's row.
    async fn said_to(
        &self,
        user: &UserId,
        incarnation: u64,
        contact: &UserId,
        row: &Contact,
    ) -> Result<(ContactTold, Result<(), Failure>, Option<(u64, ContactChanged)>), Failure> {
        let upto = row.untold.last().map_or(0, |said| said.number);
        let heard = HeardFromContact { peer: incarnation, said: row.untold.clone() };
        Ok(match self.change(contact, row.peer, user, Change::Heard(heard)).await {
            Ok(changed) => {
                let of = changed.incarnation;
                (ContactTold { upto, peer: row.peer, ..ContactTold::default() }, Ok(()), Some((of, changed)))
            }
            Err(StoreFailure::NotFound { .. } | StoreFailure::Gone { .. }) => {
                let failure = Failure::NoUser(contact.as_str().to_owned());
                (ContactTold { upto, peer: row.peer, failed: true, full: false }, Err(failure), None)
            }
            Err(StoreFailure::NoRoom { .. }) => {
                (ContactTold { upto, peer: row.peer, failed: true, full: true }, Err(Failure::Requests), None)
            }
            Err(failure) => return Err(failure.into()),
        })
    }

    async fn change(
        &self,
        user: &UserId,
        incarnation: u64,
        contact: &UserId,
        change: Change,
    ) -> Result<ContactChanged, StoreFailure> {
        let change = ChangeContact {
            user: user.as_str().to_owned(),
            incarnation,
            contact: contact.as_str().to_owned(),
            change: Some(change),
        };
        let op = Op::Directory(DirectoryCommand { op: Some(directory_command::Op::ChangeContact(change)) });
        let shard = self.topology.borrow().shards.directory_of(user);
        match self.store.call(shard, op, clock::now() + self.deadline).await {
            Ok(StoreAnswer::ContactChanged(changed)) => Ok(changed),
            Ok(_) => Err(StoreFailure::Unexpected),
            Err(failure) => Err(failure),
        }
    }

    /// Tells the owner of the user what the row is now. It may have been changed by an attempt whose word was lost.
    async fn news(&self, user: &UserId, incarnation: u64, contact: &UserId, changed: &ContactChanged) {
        if !changed.changed && changed.contact.is_none() {
            return;
        }
        let news = Said::News(Box::new(ContactNews {
            user: Some(Person { user: user.as_str().to_owned(), incarnation }),
            contact: contact.as_str().to_owned(),
            row: changed.contact.clone(),
            before: if changed.changed { changed.before } else { changed.version },
            version: changed.version,
        }));
        let unsaid: Vec<Said> = match self.topology.borrow().elsewhere(user.as_str()) {
            Some(address) => self.peers.say(address, news).into_iter().collect(),
            None => self.partitions.say(news),
        };
        for said in unsaid {
            self.partitions.say_later(said).await;
        }
    }

    /// Tells what has been waiting since the last look, for the shards whose worker this is. Returns what waits now.
    async fn tell_what_was_left(&self, seen: &BTreeSet<Seen>) -> BTreeSet<Seen> {
        let topology = Arc::clone(&self.topology.borrow());
        let mut waits = BTreeSet::new();
        if !topology.is_known() || Level(topology.view.level) < Level::GROUPS {
            return waits;
        }
        let is_own = |shard: &ShardId| shard.kind == ShardKind::Directory && topology.owns(&format!("worker/{shard}"));
        for shard in topology.shards.all().filter(is_own) {
            let mut after = Bytes::new();
            loop {
                let read = Op::ReadUntold(ReadUntold { after, limit: PAGE });
                let Ok(StoreAnswer::UntoldRead(UntoldRead { rows, next })) =
                    self.store.call(shard, read, clock::now() + self.deadline).await
                else {
                    break;
                };
                self.tell_rows(rows, seen, &mut waits).await;
                if next.is_empty() {
                    break;
                }
                after = next;
            }
        }
        waits
    }

    /// A row that was not there at the last look is being told by the router that has changed it.
    async fn tell_rows(&self, rows: Vec<untold_read::Row>, seen: &BTreeSet<Seen>, waits: &mut BTreeSet<Seen>) {
        let mut due = Vec::new();
        for untold_read::Row { user, incarnation, contact, row } in rows {
            let (Ok(of), Ok(known), Some(row)) = (UserId::new(&user), UserId::new(&contact), row) else { continue };
            let number = row.untold.first().map_or(0, |said| said.number);
            let place = (user, incarnation, contact, number);
            if seen.contains(&place) {
                due.push((of, incarnation, known, row));
            }
            waits.insert(place);
        }
        let telling = due.into_iter().map(|(user, incarnation, contact, row)| async move {
            if let Err(failure) = self.tell_all(user, incarnation, contact, row).await {
                tracing::debug!(%failure, "a contact was not told");
            }
        });
        let mut telling = futures_util::stream::iter(telling).buffer_unordered(AT_ONCE);
        while telling.next().await.is_some() {}
    }
}
