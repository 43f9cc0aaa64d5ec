//! What a run knows of its messages after its end, by which its timelines are read again, also those of a restored cluster.

use std::{collections::HashMap, sync::Arc};

use carillon_proto::tasks::Tasks;

use super::{DEVICE, Load, RunError, Target, direct, read_back::read_back};
use crate::{
    checker::{Findings, Flow, Ranges},
    report::recorder::Recorder,
};

/// Users whose timelines are read before others sign in.
const AT_ONCE: usize = 16;

pub(crate) struct Witness {
    load: Arc<Load>,
    users: usize,
    /// The messages that a backup must have; `None` if there was none.
    before: Option<HashMap<Flow, Ranges>>,
}

impl Witness {
    pub(super) fn new(load: &Arc<Load>, users: usize) -> Self {
        Self { load: Arc::clone(load), users, before: None }
    }

    /// A backup begins after this: it must have what is accepted by now.
    pub(crate) fn note(&mut self) {
        self.before = Some(self.load.checker.accepted());
    }

    /// How many messages a backup must have.
    pub(crate) fn noted(&self) -> u64 {
        self.before.iter().flat_map(HashMap::values).map(Ranges::len).sum()
    }

    /// The name of one of the users.
    pub(crate) fn user(&self, number: usize) -> String {
        self.load.user("", number)
    }

    /// The least and the most messages that the user's inbox can have: some ended without an answer.
    pub(crate) fn messages_of(&self, number: usize) -> (u64, u64) {
        direct::flows_of(&self.load, number, self.users).iter().fold((0, 0), |(least, most), flow| {
            let accepted = flow.accepted().len();
            (least + accepted, most + accepted + flow.unknown())
        })
    }

    /// Reads the timelines of all users, and checks that everything accepted is there.
    pub(crate) async fn read(
        &self,
        target: &Target,
        token: impl Fn(&str) -> String,
        tasks: &Tasks,
    ) -> Result<Findings, RunError> {
        Ok(self.read_as(None, target, token, tasks).await?.checker.finish())
    }

    /// Reads the timelines in a cluster that was restored from the backup.
    pub(crate) async fn read_restored(
        &self,
        target: &Target,
        token: impl Fn(&str) -> String,
        tasks: &Tasks,
    ) -> Result<Findings, RunError> {
        Ok(self.read_as(self.before.as_ref(), target, token, tasks).await?.checker.finish_restored())
    }

    async fn read_as(
        &self,
        before: Option<&HashMap<Flow, Ranges>>,
        target: &Target,
        token: impl Fn(&str) -> String,
        tasks: &Tasks,
    ) -> Result<Arc<Load>, RunError> {
        let load = Arc::new(Load {
            run: self.load.run.clone(),
            target: target.clone(),
            checker: self.load.checker.anew(before),
            recorder: Arc::new(Recorder::default()),
            ..*self.load
        });
        for first in (0..self.users).step_by(AT_ONCE) {
            let mut inboxes = Vec::new();
            for number in first..self.users.min(first + AT_ONCE) {
                let user = load.user("", number);
                let client = target.open_reader((&user, DEVICE), &token(&user), tasks).await?;
                inboxes.push(direct::inbox(&load, number, self.users, client));
            }
            let clients: Vec<_> = inboxes.iter().map(|inbox| inbox.client.clone()).collect();
            read_back(&load, inboxes).await;
            for client in clients {
                client.close().await;
            }
        }
        Ok(load)
    }
}
