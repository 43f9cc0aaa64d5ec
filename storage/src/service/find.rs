//! What this node's replica has of one message.

use carillon_proto::{
    ShardId, TimelineId,
    pb::store::{FindMessageReply, FindMessageRequest, ReplicaProgress, find_message_request::By},
};
use tonic::Status;

use crate::{
    cluster::Cluster,
    machine::FOUND_BY_KEYS,
    shard::{Reader, Shard},
};

/// From the local disk, whoever leads: the asker wants to know what each replica has.
pub(super) async fn message(cluster: &Cluster, request: FindMessageRequest) -> Result<FindMessageReply, Status> {
    let shard = checked(cluster, &request)?;
    let Some(shard) = cluster.hosted.get(shard) else { return Ok(FindMessageReply::default()) };
    if shard.alarm().is_raised() {
        return Err(Status::unavailable("the disk fails this node: it leaves service"));
    }
    // Read before the message: what is told to be applied is seen.
    let replica = progress(&shard);
    let reading = tokio::task::spawn_blocking(move || {
        let found = match shard.reader() {
            Reader::Timeline(reader) => reader.find_message(&request),
            Reader::Directory(_) => Ok(FindMessageReply::default()),
        };
        let found = shard.alarm().hear(format_args!("shard {}", shard.id()), found);
        (found, shard.group().is_closed() || shard.alarm().is_raised())
    });
    match reading.await.map_err(|error| Status::internal(error.to_string()))? {
        (_, true) => Err(Status::unavailable("this node's replica is leaving the shard")),
        (Err(error), false) => Err(Status::unavailable(error.to_string())),
        (Ok(found), false) => Ok(FindMessageReply { replica: Some(replica), ..found }),
    }
}

fn checked(cluster: &Cluster, request: &FindMessageRequest) -> Result<ShardId, Status> {
    let timeline = request.timeline.as_ref().map(TimelineId::from_key).transpose();
    let timeline = timeline.map_err(|error| Status::invalid_argument(error.to_string()))?.flatten();
    let timeline = timeline.ok_or_else(|| Status::invalid_argument("the timeline is not named"))?;
    let shard = cluster.map.timeline_of(&timeline);
    if request.shard.as_ref().and_then(ShardId::from_pb) != Some(shard) {
        return Err(Status::invalid_argument("the timeline is in another shard"));
    }
    match &request.by {
        Some(By::Keys(keys)) if keys.keys.len() > FOUND_BY_KEYS => {
            Err(Status::invalid_argument(format!("at most {FOUND_BY_KEYS} duplicate keys may be named")))
        }
        _ => Ok(shard),
    }
}

fn progress(shard: &Shard) -> ReplicaProgress {
    let (status, replica) = (shard.group().status(), shard.group().replica());
    ReplicaProgress {
        replica,
        leads: status.leads,
        votes: status.voters.contains(&replica),
        leader: status.leader.map(|(_, address)| address).unwrap_or_default(),
        term: status.term,
        applied: status.applied.unwrap_or(0),
        last: status.last_log.unwrap_or(0),
        committed: status.committed.unwrap_or(0),
    }
}
