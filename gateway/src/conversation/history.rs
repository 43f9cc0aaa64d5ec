//! Pages of history: their number, their rate, and their answers.

use carillon_proto::{
    TimelineId, UserId,
    pb::{
        client::{Code, Direction, recipient::To},
        link::{ReadTimeline, Refusal, router_reply::Result as Reply, router_request::Op},
        store::StoredEntry,
    },
};

use super::{
    AskId, Effect, Now, Page, PageAsk, Rules, Tag, Tell, expiring,
    live::Live,
    rate::Bucket,
    sending::{may_use, refused, whole_ms},
};
use crate::outcome::refusal;

/// Most unanswered fetches of one connection; further ones are refused.
const MAX_FETCHES: u32 = 4;

#[derive(Default)]
pub(super) struct History {
    /// Unanswered fetches.
    pub(super) waiting: u32,
    /// Made at the first request: most connections never fetch.
    rate: Option<Box<Bucket>>,
}

impl History {
    /// A request that waits for its answer begins, if there is room for it and the rate allows it.
    pub(super) fn begin(&mut self, rules: &Rules, now: Now) -> Result<(), Refusal> {
        if self.waiting >= MAX_FETCHES {
            return Err(refusal(Code::Overloaded, "too many fetches wait for an answer", 100));
        }
        self.take(rules, now)
    }

    /// Takes one request from the rate, if there is one.
    pub(super) fn take(&mut self, rules: &Rules, now: Now) -> Result<(), Refusal> {
        let new = || Box::new(Bucket::new(rules.fetches_per_second.into(), rules.fetch_burst, now.instant));
        self.rate.get_or_insert_with(new).take(now.instant).map_err(|wait| {
            refusal(Code::RateLimited, "more requests for history than the limit allows", whole_ms(wait))
        })
    }
}

impl Live {
    pub(super) fn fetch(&mut self, rules: &Rules, now: Now, fetch: PageAsk, out: &mut Vec<Effect>) {
        let request = fetch.request;
        match self.fetch_op(rules, now, &fetch) {
            Ok((timeline, op)) => {
                self.history.waiting += 1;
                let tag = Tag::Fetch { request, timeline, pinned: fetch.pinned_in.is_some() };
                out.push(Effect::Request { tag, op, traceparent: String::new() });
            }
            Err(why) => out.push(refused(AskId::Request(request), why)),
        }
    }

    fn fetch_op(&mut self, rules: &Rules, now: Now, fetch: &PageAsk) -> Result<(TimelineId, Op), Refusal> {
        let timeline = may_use(self, rules, fetch.timeline.as_ref())?;
        let Ok(direction) = Direction::try_from(fetch.direction) else {
            return Err(refusal(Code::Invalid, "direction is neither forward nor backward", 0));
        };
        self.history.begin(rules, now)?;
        let limit = if fetch.limit == 0 { rules.max_page } else { fetch.limit.min(rules.max_page) };
        let backward = direction == Direction::Backward;
        if (fetch.edits_of != 0 || fetch.pinned_in.is_some()) && !rules.has_references() {
            return Err(refusal(Code::Unsupported, "this service has no messages about other messages", 0));
        }
        if fetch.edits_of != 0 && !rules.edit_history {
            return Err(refusal(Code::Forbidden, "this service shows only the last edit of a message", 0));
        }
        let read = self.read(&timeline, fetch.from_seq, backward, limit, rules.max_page_bytes);
        let pinned_with = pinned_with(fetch, &timeline)?;
        let read = ReadTimeline { states: rules.has_references(), edits_of: fetch.edits_of, pinned_with, ..read };
        Ok((timeline, Op::Read(read)))
    }

    pub(super) fn fetched(
        &mut self,
        now: Now,
        (request, timeline, pinned): (u32, &TimelineId, bool),
        result: Result<Reply, Refusal>,
        out: &mut Vec<Effect>,
    ) {
        self.history.waiting = self.history.waiting.saturating_sub(1);
        let read = match result {
            Ok(Reply::TimelineRead(read)) => read,
            Ok(_) => {
                let why = refusal(Code::Internal, "the service gave an answer of the wrong kind", 100);
                return out.push(refused(AskId::Request(request), why));
            }
            Err(why) => return out.push(refused(AskId::Request(request), why)),
        };
        let head = read.head.unwrap_or_default();
        // An expired message is pinned no more, although the store may need a while to remove it.
        let is_there = |entry: &StoredEntry| !pinned || expiring::shown_until(&entry.envelope, now).is_some();
        out.push(Effect::Tell(Tell::Page(Box::new(Page {
            request,
            timeline: timeline.clone(),
            epoch: head.epoch,
            entries: read
                .entries
                .into_iter()
                .filter(is_there)
                .map(|entry| expiring::shown_in_page(entry, now))
                .collect(),
            first: head.first.max(1),
            last: head.last,
            complete: read.complete,
        }))));
    }
}

/// Of which conversation of the timeline the pinned messages are asked for: with this user; empty: of the group.
fn pinned_with(fetch: &PageAsk, timeline: &TimelineId) -> Result<Option<String>, Refusal> {
    let Some(conversation) = &fetch.pinned_in else { return Ok(None) };
    let invalid = |why: &str| Err(refusal(Code::Invalid, why, 0));
    if fetch.edits_of != 0 {
        return invalid("either edits or pinned messages are read at a time");
    }
    match (timeline, &conversation.to) {
        (TimelineId::Inbox(_), Some(To::User(user))) => match UserId::check(user) {
            Ok(()) => Ok(Some(user.clone())),
            Err(error) => invalid(&format!("pinned_in: {error}")),
        },
        (TimelineId::Group(group), Some(To::Group(named))) if named == group.as_str() => Ok(Some(String::new())),
        _ => invalid("pinned_in must be a user in the inbox, and in a group's timeline the group"),
    }
}
