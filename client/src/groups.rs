//! Groups: changes and reads.

use carillon_proto::{
    GroupId, TimelineId,
    pb::client::{
        ChangeMembers, CreateGroup, DeleteGroup, Group, GroupRequest, GroupSettings, Groups, Members, ReadGroup,
        ReadGroups, ReadMembers, group_request,
    },
};

use crate::{
    Client, FetchError, SendError,
    fetches::{Found, Query},
    outbox::Request,
};

/// A change of a group.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// Absent settings stay as they are.
    Set(GroupSettings),
    Members(ChangeMembers),
    Delete,
}

impl Client {
    /// Makes a group, of which this user is the owner. Without an id the service makes one up.
    pub async fn create_group(&self, id: Option<&GroupId>, new: CreateGroup) -> Result<GroupId, SendError> {
        let group = id.map(GroupId::as_str).unwrap_or_default();
        let timeline = self.group_request(group, group_request::Change::Create(new)).await?;
        match timeline {
            Some(TimelineId::Group(group)) => Ok(group),
            Some(TimelineId::Inbox(_)) | None => Err(SendError::Ended("the service named no group".to_owned())),
        }
    }

    /// Returns when the change is in the group's log and in the inboxes of all whom it concerns.
    pub async fn change_group(&self, group: &GroupId, change: Change) -> Result<(), SendError> {
        let change = match change {
            Change::Set(settings) => group_request::Change::Set(settings),
            Change::Members(members) => group_request::Change::Members(members),
            Change::Delete => group_request::Change::Delete(DeleteGroup {}),
        };
        self.group_request(group.as_str(), change).await.map(drop)
    }

    async fn group_request(&self, group: &str, change: group_request::Change) -> Result<Option<TimelineId>, SendError> {
        let client_id = self.next_id();
        let request = GroupRequest { client_id: client_id.clone(), group: group.to_owned(), change: Some(change) };
        let accepted = self.request(client_id, Request::Group(request)).await?.await?;
        Ok(accepted.timeline.and_then(|timeline| TimelineId::from_client(&timeline).ok().flatten()))
    }

    /// A group as this user sees it.
    pub async fn read_group(&self, group: &GroupId) -> Result<Group, FetchError> {
        let read = ReadGroup { request: 0, group: group.as_str().to_owned() };
        match self.find(Query::Group(read)).await? {
            Found::Group(group) => Ok(group),
            _ => Err(FetchError::OtherAnswer),
        }
    }

    /// A page of a group's members; `read.request` is of no meaning.
    pub async fn read_members(&self, read: ReadMembers) -> Result<Members, FetchError> {
        match self.find(Query::Members(read)).await? {
            Found::Members(members) => Ok(members),
            _ => Err(FetchError::OtherAnswer),
        }
    }

    /// The groups that this user is in or is invited to, after this one.
    pub async fn read_groups(&self, after: Option<&GroupId>, limit: u32) -> Result<Groups, FetchError> {
        let after_group = after.map(|group| group.as_str().to_owned()).unwrap_or_default();
        match self.find(Query::Groups(ReadGroups { request: 0, after_group, limit })).await? {
            Found::Groups(groups) => Ok(groups),
            _ => Err(FetchError::OtherAnswer),
        }
    }
}
