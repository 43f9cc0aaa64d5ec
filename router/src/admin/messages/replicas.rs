//! Asks each storage node what its replica of an inbox has of a message.

use std::time::Duration;

use carillon_proto::{
    ShardId, TimelineId,
    limits::MAX_NODE_MESSAGE_BYTES,
    pb::{
        admin::ReplicaTrace,
        store::{
            DevicePosition, FindMessageReply, FindMessageRequest, FoundMessage, Head, Node, NodeKind,
            find_message_request::By, store_client::StoreClient,
        },
    },
    peer::cause,
};
use futures_util::future::join_all;
use tonic::{Code, Request, Status};

use super::{super::releases, Admin, Owner};

/// Deadline of one node.
const TRY: Duration = Duration::from_secs(2);

/// What the nodes that may have a replica have told.
pub(super) struct Answers {
    shard: ShardId,
    of: Vec<(Node, Result<FindMessageReply, String>)>,
}

impl Admin {
    pub(super) async fn ask_replicas(&self, owner: &Owner, by: &By) -> Result<Answers, Status> {
        let timeline = TimelineId::Inbox(owner.user.clone());
        let shard = self.shards()?.timeline_of(&timeline);
        let request = FindMessageRequest {
            shard: Some(shard.to_pb()),
            timeline: Some(timeline.to_key()),
            incarnation: owner.found.account.as_ref().map_or(0, |account| account.incarnation),
            by: Some(by.clone()),
        };
        let view = self.topology.borrow().view.clone();
        let placed = view.placement.iter().find(|placed| placed.shard == request.shard);
        let has = |node: &&Node| placed.is_none_or(|placed| placed.replicas.iter().any(|it| it.node == node.lease));
        let asking = view.storage.iter().filter(has).map(async |node| {
            let answer = match self.ask_replica(node, request.clone()).await {
                Ok(answer) => Ok(answer),
                Err(status) if status.code() == Code::Unimplemented => Err(self.does_not_know(node).await),
                Err(status) => Err(format!("it does not answer: {}", cause(&status))),
            };
            (node.clone(), answer)
        });
        Ok(Answers { shard, of: join_all(asking).await })
    }

    async fn ask_replica(&self, node: &Node, request: FindMessageRequest) -> Result<FindMessageReply, Status> {
        let channel = self.security.channel(&node.address).map_err(|error| Status::internal(error.to_string()))?;
        let mut request = Request::new(request);
        request.set_timeout(TRY);
        let mut store = StoreClient::with_interceptor(channel, self.security.token())
            .max_decoding_message_size(MAX_NODE_MESSAGE_BYTES);
        Ok(store.find_message(request).await?.into_inner())
    }

    /// The reason of a node whose release is too old to answer.
    pub(super) async fn does_not_know(&self, node: &Node) -> String {
        let view = self.topology.borrow().view.clone();
        let releases = releases(&view, &self.registry.leads().await);
        let told = releases.into_iter().find(|told| (told.kind, told.lease) == (node.kind, node.lease));
        match told.and_then(|told| told.release) {
            Some(release) => format!("release {} does not know the question", release.version),
            None => "its release does not know the question".to_owned(),
        }
    }
}

impl Answers {
    pub(super) fn shard(&self) -> ShardId {
        self.shard
    }

    fn told(&self) -> impl Iterator<Item = &FindMessageReply> {
        self.of.iter().filter_map(|(_, answer)| answer.as_ref().ok())
    }

    pub(super) fn message(&self) -> Option<&FoundMessage> {
        self.told().find_map(|answer| answer.message.as_ref())
    }

    /// Of the replica that has applied most.
    fn furthest(&self) -> Option<&FindMessageReply> {
        self.told().max_by_key(|answer| answer.replica.as_ref().map_or(0, |replica| replica.applied))
    }

    pub(super) fn head(&self) -> Head {
        self.furthest().and_then(|answer| answer.head).unwrap_or_default()
    }

    pub(super) fn devices(&self) -> &[DevicePosition] {
        self.furthest().map_or(&[], |answer| &answer.devices)
    }

    /// What was found is another message.
    pub(super) fn without_message(mut self) -> Self {
        for (_, answer) in &mut self.of {
            if let Ok(answer) = answer {
                answer.message = None;
            }
        }
        self
    }

    pub(super) fn into_replicas(self) -> Vec<ReplicaTrace> {
        let trace = |(node, answer): (Node, Result<FindMessageReply, String>)| {
            debug_assert_eq!(node.kind(), NodeKind::Storage);
            let (not_told, answer) = match answer {
                Ok(answer) => (String::new(), answer),
                Err(why) => (why, FindMessageReply::default()),
            };
            ReplicaTrace {
                node: node.lease,
                address: node.address,
                not_told,
                progress: answer.replica,
                seq: answer.message.map_or(0, |found| found.seq),
                searched: answer.searched,
            }
        };
        self.of.into_iter().map(trace).collect()
    }
}
