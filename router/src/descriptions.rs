//! Questions of the operator to one gateway, for what it tells of itself. One that a gateway of an earlier release does not know is
//! never answered.

use std::{collections::HashMap, sync::Arc};

use carillon_proto::pb::{diagnostics::Description, link::GatewayDescription};
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

/// Questions without an answer; further ones are refused.
const QUESTIONS: usize = 8;

/// Of one link. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Descriptions {
    questions: mpsc::Sender<u64>,
    waiting: Arc<Mutex<Waiting>>,
}

#[derive(Default)]
struct Waiting {
    last_id: u64,
    askers: HashMap<u64, oneshot::Sender<Description>>,
}

impl Descriptions {
    /// The questions are to be sent on the link.
    pub(crate) fn new() -> (Self, mpsc::Receiver<u64>) {
        let (sender, questions) = mpsc::channel(QUESTIONS);
        (Self { questions: sender, waiting: Arc::default() }, questions)
    }

    /// `None` if too many questions wait, or the link has ended. Whoever has no patience any more drops the receiver.
    pub(crate) fn ask(&self) -> Option<oneshot::Receiver<Description>> {
        let mut waiting = self.waiting.lock();
        waiting.askers.retain(|_, asker| !asker.is_closed());
        if waiting.askers.len() >= QUESTIONS {
            return None;
        }
        waiting.last_id += 1;
        let (id, (asker, answer)) = (waiting.last_id, oneshot::channel());
        self.questions.try_send(id).ok()?;
        waiting.askers.insert(id, asker);
        Some(answer)
    }

    /// Passes an answer to its asker. Answers to no question, and those that nobody waits for any more, are dropped.
    pub(crate) fn answered(&self, told: GatewayDescription) {
        let asker = self.waiting.lock().askers.remove(&told.id);
        if let (Some(asker), Some(description)) = (asker, told.description) {
            let _ = asker.send(description);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_answer_goes_to_its_question_and_questions_are_bounded() {
        let (descriptions, mut questions) = Descriptions::new();
        let mut first = descriptions.ask().expect("there is room");
        let second = descriptions.ask().expect("there is room");
        let described =
            |id, pid| GatewayDescription { id, description: Some(Description { pid, ..Description::default() }) };
        descriptions.answered(described(questions.try_recv().expect("asked"), 7));
        assert_eq!(first.try_recv().expect("answered").pid, 7);
        descriptions.answered(described(99, 8));
        let rest: Vec<_> = (0..QUESTIONS).map_while(|_| descriptions.ask()).collect();
        assert_eq!(rest.len(), QUESTIONS - 1, "the second question waits still");
        drop((second, rest));
        while questions.try_recv().is_ok() {}
        assert!(descriptions.ask().is_some(), "nobody waits for the others any more");
        drop(questions);
        assert!(descriptions.ask().is_none(), "the link has ended");
    }
}
