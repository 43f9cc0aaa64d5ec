//! See `carillon_proto::planted`.

use std::time::Duration;

use carillon_proto::{
    pb::{
        client::Envelope,
        store::{Append, TimelineCommand, TimelineKey, timeline_command::Op},
    },
    planted::PlantedBug,
};
use prost::Message as _;
use tokio::time::sleep;

use super::{Proposer, Write};
use crate::shard::{Reader, Responder};

/// How long an entry whose commands are answered stays in memory only.
const BEHIND: Duration = Duration::from_millis(200);

impl Proposer {
    /// The writes that are proposed in place of these.
    pub(super) async fn spoil(&mut self, mut writes: Vec<Write>) -> Vec<Write> {
        if PlantedBug::AckBeforeCommit.is_planted() {
            self.answer_early(&mut writes).await;
        }
        if PlantedBug::ReorderBatch.is_planted() {
            reorder(&mut writes);
        }
        writes
    }

    async fn answer_early(&mut self, writes: &mut [Write]) {
        let Reader::Timeline(reader) = self.reader.clone() else { return };
        // The outcomes follow from everything that came before.
        self.flight.below(1).await;
        if self.group.linearize(BEHIND).await.is_err() {
            return;
        }
        let commands = writes.iter().map(|write| write.command.clone());
        let outcomes = reader.foresee(commands).expect("the machine could not apply them either");
        for (write, outcome) in writes.iter_mut().zip(outcomes) {
            let (silent, _) = Responder::once();
            std::mem::replace(&mut write.answer, silent).give(outcome);
        }
        sleep(BEHIND).await;
    }
}

/// Swaps the first message that has a later one of the same sender and timeline with the next such message. Both drop
/// the name of the message before them: the machine would notice.
fn reorder(writes: &mut [Write]) {
    let mut seen: Vec<(usize, TimelineKey, String)> = Vec::new();
    for second in 0..writes.len() {
        let Some((timeline, sender, unchecked)) = message(&writes[second]) else { continue };
        let same = seen.iter().find(|(_, other, by)| (other, by) == (&timeline, &sender));
        let Some(first) = same.map(|(first, ..)| *first) else {
            seen.push((second, timeline, sender));
            continue;
        };
        writes[second].command = unchecked;
        if let Some((.., unchecked)) = message(&writes[first]) {
            writes[first].command = unchecked;
        }
        return writes.swap(first, second);
    }
}

/// Timeline, sender, and the command without the message that it follows.
fn message(write: &Write) -> Option<(TimelineKey, String, bytes::Bytes)> {
    let Ok(TimelineCommand { op: Some(Op::Append(append)) }) = TimelineCommand::decode(&*write.command) else {
        return None;
    };
    let sender = Envelope::decode(&*append.envelope).ok()?.sender;
    let timeline = append.timeline.clone()?;
    let unchecked = Append { after_key: bytes::Bytes::new(), ..append };
    Some((timeline, sender, TimelineCommand { op: Some(Op::Append(unchecked)) }.encode_to_vec().into()))
}
