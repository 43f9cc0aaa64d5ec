//! Reports of messages to the moderators. The routers read the messages. See docs/adr/0035-reports.md.

use carillon_proto::{
    ClientId,
    limits::{MAX_REPORT_TEXT_BYTES, REPORTED},
    pb::{
        client::{Code, Recipient, recipient::To},
        link::{self, Refusal, router_reply::Result as Reply, router_request::Op},
        store::ReportReason,
    },
};

use super::{AskId, Effect, Now, Rules, Tag, Tell, live::Live, scheduled::check_recipient, sending::refused};
use crate::outcome::refusal;

/// A report, with the number of the request.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ReportAsk {
    pub(crate) request: u32,
    pub(crate) client_id: String,
    pub(crate) conversation: Option<Recipient>,
    /// Of the messages, in the user's inbox or in the group's timeline.
    pub(crate) seqs: Vec<u64>,
    /// A [`ReportReason`], whose numbers are those of clients.
    pub(crate) reason: i32,
    pub(crate) text: String,
}

impl Live {
    pub(super) fn report(&mut self, rules: &Rules, now: Now, ask: ReportAsk, out: &mut Vec<Effect>) {
        let request = ask.request;
        match self.report_op(rules, now, ask) {
            Ok(op) => {
                self.history.waiting += 1;
                out.push(Effect::Request { tag: Tag::Report(request), op, traceparent: String::new() });
            }
            Err(why) => out.push(refused(AskId::Request(request), why)),
        }
    }

    fn report_op(&mut self, rules: &Rules, now: Now, ask: ReportAsk) -> Result<Op, Refusal> {
        // Groups have come with the same level.
        if !rules.has_groups() {
            return Err(refusal(Code::Unsupported, "this service takes no reports", 0));
        }
        let ReportAsk { client_id, conversation, seqs, reason, text, .. } = ask;
        ClientId::check(&client_id).map_err(|error| invalid(&error))?;
        if let Some(To::User(user)) = conversation.as_ref().and_then(|conversation| conversation.to.as_ref())
            && *user == self.who.user.as_str()
        {
            return Err(invalid(&"a user reports what others have written"));
        }
        let conversation = Some(check_recipient(conversation)?);
        if !(1..=REPORTED).contains(&seqs.len()) || !are_positions(&seqs) {
            return Err(invalid(&format!("seqs must name 1 to {REPORTED} messages, each once")));
        }
        if !matches!(ReportReason::try_from(reason), Ok(known) if known != ReportReason::Unspecified) {
            return Err(invalid(&"the report has no reason, or one of an unknown kind"));
        }
        if text.len() > MAX_REPORT_TEXT_BYTES {
            return Err(refusal(
                Code::TooLarge,
                &format!("text is {} bytes but must be at most {MAX_REPORT_TEXT_BYTES}", text.len()),
                0,
            ));
        }
        self.history.begin(rules, now)?;
        Ok(Op::Report(Box::new(link::Report {
            user: self.who.user.as_str().to_owned(),
            incarnation: self.incarnation,
            generation: self.generation,
            device: self.who.device.as_str().to_owned(),
            client_id,
            conversation,
            seqs,
            reason,
            text,
        })))
    }

    pub(super) fn reported(&mut self, request: u32, result: Result<Reply, Refusal>, out: &mut Vec<Effect>) {
        self.history.waiting = self.history.waiting.saturating_sub(1);
        out.push(match result {
            Ok(Reply::Done(_)) => Effect::Tell(Tell::Reported { request }),
            Ok(_) => {
                let why = refusal(Code::Internal, "the service gave an answer of the wrong kind", 100);
                refused(AskId::Request(request), why)
            }
            Err(why) => refused(AskId::Request(request), why),
        });
    }
}

/// True if none is 0, and each is there once.
fn are_positions(seqs: &[u64]) -> bool {
    let mut sorted = seqs.to_vec();
    sorted.sort_unstable();
    sorted.first() != Some(&0) && sorted.is_sorted_by(|one, next| one < next)
}

fn invalid(why: &dyn ToString) -> Refusal {
    refusal(Code::Invalid, &why.to_string(), 0)
}
