//! Reports to moderators: which messages may be their evidence, and that it is kept as it was. See docs/adr/0035-reports.md.

use std::collections::{BTreeMap, BTreeSet};

use carillon_proto::{
    ClientId, DeviceId, DuplicateKey, ShardId, ShardKind, UserId,
    pb::{
        client::{Envelope, MessageState, content::Body},
        link::{self, Refusal, router_request::Op},
        store::{
            PutReport, ReadReport, ReadReports, ReportEvidence, ReportPlace, ReportPut, ReportRead, ReportReason,
            ReportsRead, SettleReport, TimelineCommand, TimelineKey, report_evidence::Message as Evidence,
            store_reply::Result as Outcome, store_request::Op as StoreOp, timeline_command, timeline_key::Kind,
        },
    },
};
use prost::Message as _;

use crate::{
    clients::user_name,
    groups::{DEVICE, Want, What, group_name},
    membership::Group,
    model::{Entry, Inbox, Model, owner_of},
    random::Random,
    references::{is_between, states, states_in},
    schedule::Time,
    store::MAP,
    world::World,
};

/// Most messages around the reported ones, on each side.
const AROUND: usize = 5;
/// Rows of one read, so that there are several.
const PAGE: u32 = 2;

/// Reports by the shard and the place in it, and those that were asked for, by their keys.
#[derive(Default)]
pub(crate) struct Reports {
    kept: BTreeMap<(ShardId, u64, u64), Kept>,
    asked: BTreeMap<Vec<u8>, Asked>,
}

struct Kept {
    put: PutReport,
    /// Keys of further reports of messages that were all in this one while it was open.
    further: BTreeSet<Vec<u8>>,
    note: Option<String>,
}

impl Kept {
    /// True if a report of these messages adds nothing: all are in this one, which is open and of the same account.
    fn has_all_of(&self, op: &PutReport) -> bool {
        let (known, messages) = (reported(&self.put), reported(op));
        let is_own = (&self.put.timeline, self.put.incarnation) == (&op.timeline, op.incarnation);
        is_own && self.note.is_none() && !messages.is_empty() && messages.is_subset(&known)
    }
}

/// A report that a user wants to make.
struct Asked {
    conversation: TimelineKey,
    /// Numbers of entries that the timelines of this name had.
    from: BTreeMap<u64, usize>,
    /// The user may report all these messages.
    is_right: bool,
}

/// Reports of users, and times at which moderators resolve one, by random numbers of their own.
pub(crate) fn reports(seed: u64, users: usize, from: Time, until: Time) -> Vec<(usize, Time, Want)> {
    let mut random = Random::new(seed ^ 0x7265_706f_7274);
    let mut one = || {
        let user = random.index(users);
        let what = match random.below(10) {
            0..6 => What::Report { with: Some(random.index(users)), pick: random.next() },
            6..9 => What::Report { with: None, pick: random.next() },
            _ => What::Moderate,
        };
        (user, random.between(from, until), Want { group: random.index(2), what })
    };
    (0..10).map(|_| one()).collect()
}

impl Model {
    /// The user asks for it; `number` is that of the want. `None`: there is nothing to report.
    pub(crate) fn reports(
        &mut self,
        user: usize,
        incarnation: u64,
        number: u64,
        (with, group): (Option<usize>, usize),
        pick: u64,
    ) -> Option<Op> {
        let (name, mut random) = (user_name(user), Random::new(pick));
        let account = (name.clone(), incarnation);
        let conversation = match with {
            Some(with) => TimelineKey { kind: Kind::Inbox.into(), owner: user_name(with).into() },
            None => TimelineKey { kind: Kind::Group.into(), owner: group_name(group).into() },
        };
        let timelines = self.timelines(&conversation, &account);
        let (entries, members) = match with {
            Some(_) => (&timelines.last()?.entries()[..], None),
            None => {
                let Timeline::Group(group) = *timelines.last()? else { return None };
                (&group.entries[..], Some(group))
            }
        };
        let peer = owner_of(Some(&conversation));
        let may_report = |seq: u64| {
            let Some(entry) = entries.get((seq as usize).wrapping_sub(1)) else { return false };
            let is_there = match members {
                Some(group) => group.shows(entries.len() as u64, seq, &account),
                None => is_between(&entry.envelope, &name, peer),
            };
            is_there && entry.envelope.sender != name && !entry.envelope.sender.is_empty()
        };
        let right: Vec<u64> = (1..=entries.len() as u64).filter(|seq| may_report(*seq)).collect();
        let mut seqs = BTreeSet::new();
        for _ in 0..random.between(1, 3) {
            // Sometimes one that is the user's own, of others, or not there.
            match right.is_empty() || random.in_thousand(150) {
                true => seqs.insert(random.between(1, entries.len() as u64 + 1)),
                false => seqs.insert(right[random.index(right.len())]),
            };
        }
        let is_right = seqs.iter().all(|seq| right.contains(seq));
        let from = timelines.iter().map(|timeline| (timeline.epoch(), timeline.entries().len())).collect();
        let client_id = format!("r{user}-{number}");
        let asked = Asked { conversation: conversation.clone(), from, is_right };
        self.reported.asked.insert(key(&name, incarnation, &client_id), asked);
        Some(Op::Report(Box::new(link::Report {
            user: name,
            incarnation,
            generation: incarnation,
            device: DEVICE.to_owned(),
            client_id: client_id.clone(),
            conversation: Some(conversation),
            seqs: seqs.into_iter().collect(),
            reason: ReportReason::Spam.into(),
            text: client_id,
        })))
    }

    /// The inbox of the account, or the groups that have had this name.
    fn timelines(&self, conversation: &TimelineKey, account: &(String, u64)) -> Vec<Timeline<'_>> {
        match conversation.kind() {
            Kind::Group => {
                let name = owner_of(Some(conversation));
                let of_name = self.groups.all().filter(|((of, _), _)| *of == name);
                let mut groups: Vec<_> = of_name.map(|(_, group)| Timeline::Group(group)).collect();
                groups.sort_by_key(|group| group.epoch());
                groups
            }
            _ => self.inboxes.get(account).map(|inbox| Timeline::Inbox(inbox, account.0.clone())).into_iter().collect(),
        }
    }

    /// The state machine has kept a report, or had it.
    pub(crate) fn report_put(&mut self, op: &PutReport, put: &ReportPut) -> Result<(), String> {
        let user = owner_of(op.timeline.as_ref());
        let shard = MAP.timeline_of_owner(user);
        let ReportPlace { time_ms, id } = put.place.ok_or("a report without a place")?;
        let place = (shard, time_ms, id);
        let is_same = |kept: &Kept| kept.put.key == op.key && kept.put.timeline == op.timeline;
        if let Some((known, _)) = self.reported.kept.iter().find(|(_, kept)| is_same(kept)) {
            return match put.changed || *known != place {
                true => Err(format!("{} of {user} was reported twice", op.text)),
                false => Ok(()),
            };
        }
        if !put.changed {
            let known = self.reported.kept.get_mut(&place).filter(|kept| kept.has_all_of(op));
            let known = known.ok_or_else(|| format!("{} of {user} is no new report", op.text))?;
            known.further.insert(op.key.to_vec());
            return Ok(());
        }
        if self.reported.kept.contains_key(&place) || self.reported.kept.values().any(|kept| kept.has_all_of(op)) {
            return Err(format!("{} of {user} is no new report, and was taken for one", op.text));
        }
        self.is_readable(user, op)?;
        self.reported.kept.insert(place, Kept { put: op.clone(), further: BTreeSet::new(), note: None });
        Ok(())
    }

    /// The evidence is what the user could read since it has asked.
    fn is_readable(&self, user: &str, op: &PutReport) -> Result<(), String> {
        let asked = self.reported.asked.get(&op.key[..]).ok_or_else(|| format!("{user} has never reported {op:?}"))?;
        let account = (user.to_owned(), op.incarnation);
        let (evidence, peer) = (op.evidence.clone().unwrap_or_default(), owner_of(Some(&asked.conversation)));
        let mut why = format!("{user} has reported what is not there");
        for timeline in self.timelines(&asked.conversation, &account) {
            let from = asked.from.get(&timeline.epoch()).copied().unwrap_or(0);
            match timeline.has(&account, peer, from, &evidence) {
                Ok(()) => return Ok(()),
                Err(wrong) => why = format!("{user} has reported what it can't read: {wrong}"),
            }
        }
        Err(why)
    }

    /// A user hears that it is done.
    pub(crate) fn report_answered(&mut self, op: &Op) {
        let Op::Report(report) = op else { return };
        let key = key(&report.user, report.incarnation, &report.client_id);
        if !self.reported.kept.values().any(|kept| kept.put.key[..] == key || kept.further.contains(&key)) {
            self.breaks(format!("{} of {} was reported, and is not kept", report.client_id, report.user));
        }
    }

    /// A user hears that it can't be done.
    pub(crate) fn report_refused(&mut self, op: &Op, why: &Refusal) {
        let Op::Report(report) = op else { return };
        let account = (report.user.clone(), report.incarnation);
        let key = key(&report.user, report.incarnation, &report.client_id);
        let Some(asked) = self.reported.asked.get(&key) else { return };
        let stays = match self.timelines(&asked.conversation, &account).last() {
            // A user who has left it meanwhile, or has come back, does not see the same.
            Some(Timeline::Group(group)) => {
                asked.from.get(&group.epoch).is_some_and(|from| group.stays(*from, &account))
            }
            other => other.is_some(),
        };
        if asked.is_right && stays && self.owner(&report.user) == Some(report.incarnation) && !self.marks.are_partial {
            self.breaks(format!("{} was refused {:?}: {}", report.user, report.client_id, why.reason));
        }
    }
}

/// A timeline of which messages may be reported.
enum Timeline<'a> {
    /// With its owner.
    Inbox(&'a Inbox, String),
    Group(&'a Group),
}

impl Timeline<'_> {
    fn entries(&self) -> &Vec<Entry> {
        match self {
            Self::Inbox(inbox, _) => &inbox.entries,
            Self::Group(group) => &group.entries,
        }
    }

    fn epoch(&self) -> u64 {
        match self {
            Self::Inbox(..) => 0,
            Self::Group(group) => group.epoch,
        }
    }

    /// Whether this is what the account could read since there were `from` entries: the messages with what had become of them.
    fn has(&self, account: &(String, u64), peer: &str, from: usize, evidence: &ReportEvidence) -> Result<(), String> {
        let entries = self.entries();
        let shown: Vec<(usize, Vec<MessageState>)> = (from..=entries.len())
            .map(|upto| {
                let states = match self {
                    Self::Inbox(_, owner) => states(&entries[..upto], owner),
                    Self::Group(group) => states_in(group, upto, account),
                };
                (upto, states)
            })
            .collect();
        let mut reported = Vec::new();
        for Evidence { seq, envelope, state, reported: is_reported, cut } in &evidence.messages {
            let entry = entries.get((*seq as usize).wrapping_sub(1)).ok_or_else(|| format!("{seq} is not there"))?;
            let is_it = Envelope::decode(envelope.clone()).is_ok_and(|envelope| entry.may_be(&envelope));
            if !is_it || *cut {
                return Err(format!("{seq} says something else"));
            }
            let is_shown = |upto: usize| match self {
                Self::Inbox(..) => upto as u64 >= *seq && is_between(&entry.envelope, &account.0, peer),
                Self::Group(group) => group.shows(upto as u64, *seq, account),
            };
            let mut state = MessageState::decode(state.clone()).map_err(|error| error.to_string())?;
            state.reactions.sort_by(|a, b| a.emoji.cmp(&b.emoji));
            // Edits beside the edited message are read without what has become of them, which is nothing; and nothing is said of a message
            // that is gone.
            let passes = entry.envelope.expires_at_ms != 0;
            let was_so = |(upto, states): &(usize, Vec<MessageState>)| {
                is_shown(*upto) && (passes || states.get(*seq as usize - 1) == Some(&state))
            };
            if !shown.iter().any(was_so) {
                return Err(format!("{seq} was never so: {state:?}"));
            }
            if *is_reported {
                reported.push(entry);
            }
        }
        let Some(first) = evidence.messages.iter().find(|message| message.reported) else {
            return Err("nothing".to_owned());
        };
        if reported.iter().any(|entry| entry.envelope.sender == account.0) {
            return Err("it is the user's own".to_owned());
        }
        let is_around = |message: &&Evidence| {
            let about = edited(&entries[message.seq as usize - 1].envelope);
            !message.reported && !about.is_some_and(|id| reported.iter().any(|entry| entry.envelope.id == id))
        };
        let around: Vec<u64> = evidence.messages.iter().filter(is_around).map(|message| message.seq).collect();
        let before = around.iter().filter(|seq| **seq < first.seq).count();
        if before > AROUND || around.len() - before > AROUND {
            return Err(format!("too many around {}: {around:?}", first.seq));
        }
        Ok(())
    }
}

/// The ids of the messages that are reported, without those around them.
fn reported(put: &PutReport) -> BTreeSet<String> {
    let messages = put.evidence.iter().flat_map(|evidence| &evidence.messages).filter(|message| message.reported);
    messages.filter_map(|message| Some(Envelope::decode(message.envelope.clone()).ok()?.id)).collect()
}

/// The id of the message that this one edits.
fn edited(envelope: &Envelope) -> Option<&str> {
    match envelope.content.as_ref()?.body.as_ref()? {
        Body::Edit(edit) => Some(&edit.target.as_ref()?.id),
        _ => None,
    }
}

/// The key of a report, as the router makes it.
fn key(user: &str, incarnation: u64, client_id: &str) -> Vec<u8> {
    let (user, device) = (UserId::new(user).expect("valid"), DeviceId::new(DEVICE).expect("valid"));
    let client_id = ClientId::new(client_id).expect("valid");
    DuplicateKey::new(&user, &device, &client_id).of_incarnation(incarnation).0.to_vec()
}

impl World<'_> {
    /// A moderator resolves the first report that is open.
    pub(crate) fn moderates(&mut self) {
        let (time_ms, reported) = (self.schedule.unix_ms(), &mut self.model.reported);
        let Some(((shard, at_ms, id), kept)) = reported.kept.iter_mut().find(|(_, kept)| kept.note.is_none()) else {
            return;
        };
        let (shard, place, note) = (*shard, Some(ReportPlace { time_ms: *at_ms, id: *id }), "seen".to_owned());
        kept.note = Some(note.clone());
        let settle = timeline_command::Op::SettleReport(SettleReport { place, time_ms, note, remove: false });
        let command = TimelineCommand { op: Some(settle) }.encode_to_vec().into();
        self.cluster.apply(shard, vec![command]);
    }

    /// Moderators see all reports as they were made, and no others.
    pub(crate) fn check_reports(&mut self) -> Result<(), String> {
        let mut found = BTreeSet::new();
        for shard in MAP.all().filter(|shard| shard.kind == ShardKind::Timeline) {
            for resolved in [false, true] {
                let mut after = None;
                loop {
                    let read = ReadReports { after, limit: PAGE, resolved, domain: None };
                    let Outcome::ReportsRead(ReportsRead { reports, next }) =
                        self.cluster.read(shard, &StoreOp::ReadReports(read))
                    else {
                        return Err(format!("the reports of {shard} can't be read"));
                    };
                    for row in reports {
                        let place = row.place.ok_or("a report without a place")?;
                        self.check_report(shard, place, resolved)?;
                        if !found.insert((shard, place.time_ms, place.id)) {
                            return Err(format!("report {place:?} is there twice"));
                        }
                    }
                    after = next;
                    if after.is_none() {
                        break;
                    }
                }
            }
        }
        let kept = &self.model.reported.kept;
        self.report.reports = kept.len() as u64;
        match kept.iter().find(|(place, _)| !found.contains(place)) {
            Some((_, lost)) => Err(format!("report {} is gone", lost.put.text)),
            None => Ok(()),
        }
    }

    fn check_report(&self, shard: ShardId, place: ReportPlace, resolved: bool) -> Result<(), String> {
        let kept = self.model.reported.kept.get(&(shard, place.time_ms, place.id));
        let Kept { put, note, .. } = kept.ok_or_else(|| format!("nobody has made report {place:?}"))?;
        let read = self.cluster.read(shard, &StoreOp::ReadReport(ReadReport { place: Some(place) }));
        let Outcome::ReportRead(read) = read else { return Err(format!("report {} can't be read", put.text)) };
        let ReportRead { row, evidence } = *read;
        let row = row.unwrap_or_default();
        let reporter = row.reporter.clone().unwrap_or_default();
        if (reporter.user.as_str(), reporter.incarnation) != (owner_of(put.timeline.as_ref()), put.incarnation)
            || (&row.conversation, row.reason, &row.text, &row.authors)
                != (&put.conversation, put.reason, &put.text, &put.authors)
            || (note.is_some(), note.as_ref()) != (resolved, row.resolution.as_ref().map(|resolution| &resolution.note))
        {
            return Err(format!("report {} is {row:?}", put.text));
        }
        if evidence != put.evidence {
            return Err(format!("the evidence of report {} is {evidence:?}, and was {:?}", put.text, put.evidence));
        }
        Ok(())
    }
}
