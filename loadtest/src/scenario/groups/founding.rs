//! The making of groups.

use std::time::Duration;

use carillon_client::{Change, Client, ClientConfig, FetchError, SendError};
use carillon_proto::{
    Epoch, GroupId, Position, TimelineId,
    pb::client::{ChangeMembers, CreateGroup, Start, members_change::Kind},
};
use futures_util::{StreamExt as _, TryStreamExt as _};
use parking_lot::Mutex;

use super::Plan;
use crate::scenario::{DEVICE, Environment, RunError, accounts::make_accounts, signed_in};

/// Users in one change.
const IN_CHANGE: usize = 256;
/// Groups that are made at the same time.
const AT_ONCE: usize = 32;

/// Groups that one founder owns: a user can't be in many more.
const OF_FOUNDER: usize = 4000;
/// For a change that the service has to put off: it limits what a user may ask.
const PATIENCE: Duration = Duration::from_secs(300);
/// Reads of one founder that wait for their answers: gateways refuse many.
const READ_AT_ONCE: usize = 4;
/// How often a read may be refused with "try again".
const TRIES: u32 = 50;

/// How far a group's log reaches.
pub(crate) type Places = Vec<(TimelineId, Position)>;

/// Makes the accounts of these users, and groups of them by the plan. Each group has one more member, its founder, who signs out again.
/// `places`: the ends of the groups' logs are wanted.
pub(crate) async fn make_groups_of(
    environment: &Environment,
    users: &[String],
    plan: Plan,
    places: bool,
) -> Result<Places, RunError> {
    make_accounts(environment, users.to_vec()).await?;
    environment.recorder.set_phase("making groups");
    let founders = founders(environment, plan.groups.div_ceil(OF_FOUNDER)).await?;
    let id = |group: usize| GroupId::new(&format!("{}-g{group}", environment.run)).expect("made of valid parts");
    let founding = |group: usize| Founding {
        group: id(group),
        owner: founders[group / OF_FOUNDER].clone(),
        members: plan.members_of(group).map(|user| users[user].clone()).collect(),
    };
    make_groups((0..plan.groups).map(founding)).await?;
    let read = async |group: usize| place(&founders[group / OF_FOUNDER], id(group)).await;
    let wanted = futures_util::stream::iter((0..plan.groups).filter(|_| places));
    let places = wanted.map(read).buffered(READ_AT_ONCE).try_collect().await?;
    for founder in founders {
        founder.close().await;
    }
    Ok(places)
}

/// Where the group's log ends.
async fn place(founder: &Client, group: GroupId) -> Result<(TimelineId, Position), RunError> {
    let mut tries = 0;
    loop {
        match founder.read_group(&group).await {
            Ok(read) => {
                return Ok((TimelineId::Group(group), Position { epoch: Epoch(read.epoch), seq: read.last }));
            }
            Err(FetchError::Refused(refusal)) if refusal.retry && tries < TRIES => {
                tries += 1;
                tokio::time::sleep(refusal.retry_after.max(Duration::from_millis(100))).await;
            }
            Err(error) => return Err(RunError::Group { group: group.to_string(), why: error.to_string() }),
        }
    }
}

async fn founders(environment: &Environment, count: usize) -> Result<Vec<Client>, RunError> {
    let mut founders = Vec::new();
    for number in 0..count {
        let user = format!("{}-founder{number}", environment.run);
        environment.credentials.prepare(std::iter::once(user.clone())).await?;
        let config = environment.target.config((&user, DEVICE), environment.credentials.of(&user));
        let config = ClientConfig { start: Start::Head, send_timeout: PATIENCE, ..config };
        let (client, _) = Client::open(config, &environment.tasks)?;
        signed_in(&client, &user).await?;
        founders.push(client);
    }
    Ok(founders)
}

/// A group that is to be made.
pub(crate) struct Founding {
    pub(crate) group: GroupId,
    /// Of the owner.
    pub(crate) owner: Client,
    /// All but the owner.
    pub(crate) members: Vec<String>,
}

/// Makes these groups.
pub(crate) async fn make_groups(groups: impl Iterator<Item = Founding>) -> Result<(), RunError> {
    let failed = Mutex::new(None);
    let goes_on = |_: &Founding| std::future::ready(failed.lock().is_none());
    let all = futures_util::stream::iter(groups).take_while(goes_on);
    all.for_each_concurrent(AT_ONCE, async |founding| {
        if let Err(error) = founding.make().await {
            let (group, why) = (founding.group.to_string(), error.to_string());
            failed.lock().get_or_insert(RunError::Group { group, why });
        }
    })
    .await;
    failed.into_inner().map_or(Ok(()), Err)
}

impl Founding {
    async fn make(&self) -> Result<(), SendError> {
        let (first, others) = self.members.split_at(self.members.len().min(IN_CHANGE));
        let new = CreateGroup { settings: None, members: first.to_vec() };
        self.owner.create_group(Some(&self.group), new).await?;
        for users in others.chunks(IN_CHANGE) {
            self.owner.change_group(&self.group, members(Kind::Added, users.to_vec())).await?;
        }
        Ok(())
    }
}

/// A change of these users.
pub(super) fn members(kind: Kind, users: Vec<String>) -> Change {
    Change::Members(ChangeMembers { kind: kind.into(), users, ..ChangeMembers::default() })
}
