//! The operator's changes of a running cluster: nodes are added, leave and are replaced, replicas move. What is asked for becomes a row
//! of the registry; the leaders of the shards carry it out (`reconcile`).

use std::sync::Arc;

use carillon_proto::{
    Level, ShardId,
    address::check_reachable,
    pb::{
        raft::{
            self as pb, AddNodeReply, AddNodeRequest, Identity, MembersReply, MembersRequest, MoveShardReply,
            MoveShardRequest, Program, RaiseLevelReply, RaiseLevelRequest, RebalanceReply, RebalanceRequest,
            SetNodeStateReply, SetNodeStateRequest, cluster_admin_server,
        },
        store::{
            AddStorageNode, MoveReplica, NodeAdded, RaiseLevel, Rebalance, ReplicaPlaced, SetStorageNodeState,
            StorageNode, StoreError, directory_command::Op, storage_node::State, store_error::Why,
        },
    },
};
use tonic::{Request, Response, Status};

use crate::{
    bootstrap::Bootstrap,
    carrier::Carrier,
    cluster::{Cluster, Serving, started},
    levels::{self, Obstacle, Obstacles},
    machine::Outcome,
};

#[derive(Clone)]
pub(crate) struct ClusterAdminService {
    serving: Arc<Serving>,
    bootstrap: Bootstrap,
    carrier: Carrier,
}

impl ClusterAdminService {
    pub(crate) fn new(serving: Arc<Serving>, bootstrap: Bootstrap, carrier: Carrier) -> Self {
        Self { serving, bootstrap, carrier }
    }

    /// A node that is of the cluster no more does not hear of its changes.
    fn member(&self) -> Result<&Cluster, Status> {
        let cluster = started(&self.serving)?;
        match cluster.has_no_place() {
            Some(why) => Err(Status::unavailable(format!("storage node {}: {why}", cluster.own))),
            None => Ok(cluster),
        }
    }

    fn cluster(&self) -> Result<&Cluster, Status> {
        let cluster = self.member()?;
        let level = cluster.rows().level;
        if level < Level::GROWTH {
            return Err(Status::failed_precondition(format!(
                "the cluster is at level {level}: its members change from level {} on. `carillon cluster raise-level` raises it when \
                 all storage nodes run this release and no return to the one of before is wanted",
                Level::GROWTH
            )));
        }
        Ok(cluster)
    }

    async fn carry(&self, op: Op) -> Result<Outcome, Status> {
        match self.carrier.carry_and_see(op).await {
            Ok(Outcome::Error(StoreError { why: Some(Why::Rejected(rejected)) })) => {
                Err(Status::failed_precondition(rejected.detail))
            }
            Ok(outcome) => Ok(outcome),
            Err(why) => Err(Status::unavailable(format!("the registry does not take it: {why}"))),
        }
    }

    async fn set_state(&self, node: u64, state: State) -> Result<(), Status> {
        self.carry(Op::SetStorageNodeState(SetStorageNodeState { node, state: state.into() })).await.map(drop)
    }

    /// Fails if the node that is to be declared lost answers.
    async fn check_is_gone(&self, cluster: &Cluster, node: u64) -> Result<(), Status> {
        let rows = cluster.rows();
        let row = rows.node(node);
        let row = row.ok_or_else(|| Status::failed_precondition(format!("the cluster has no storage node {node}")))?;
        if node == cluster.own {
            return Err(answers(row));
        }
        if self.bootstrap.ask_member(cluster, row).await.is_ok() { Err(answers(row)) } else { Ok(()) }
    }
}

fn answers(row: &StorageNode) -> Status {
    Status::failed_precondition(format!(
        "storage node {0} answers, so it is not lost: if it is to go, `carillon cluster remove {0}` moves its replicas first",
        row.node
    ))
}

#[tonic::async_trait]
impl cluster_admin_server::ClusterAdmin for ClusterAdminService {
    async fn add_node(&self, request: Request<AddNodeRequest>) -> Result<Response<AddNodeReply>, Status> {
        let AddNodeRequest { address, replaces } = request.into_inner();
        let cluster = self.cluster()?;
        check_reachable(&address).map_err(|error| Status::invalid_argument(format!("the new node {error}")))?;
        let new = self.bootstrap.ask(&address).await;
        // Not `Unavailable`: this node is not, and another one need not be asked.
        let new = new.map_err(|why| {
            Status::failed_precondition(format!("the new storage node {address} does not answer: {why}"))
        })?;
        if let Some(other) = new.cluster.as_ref().filter(|other| other.id != cluster.id) {
            return Err(Status::failed_precondition(format!(
                "storage node {address} belongs to the cluster {}",
                other.id
            )));
        }
        let rows = cluster.rows();
        let known = rows.nodes().find(|node| node.disk == new.disk);
        if new.cluster.is_some() && known.is_none() {
            return Err(Status::failed_precondition(format!(
                "storage node {address} has left this cluster: give it an empty data folder"
            )));
        }
        if replaces != 0 {
            if let Some(row) = known.filter(|row| row.node == replaces) {
                return Err(answers(row));
            }
            // A repeat finds it done.
            if known.is_none() {
                self.check_is_gone(cluster, replaces).await?;
            }
            self.set_state(replaces, State::Lost).await?;
        }
        let row = StorageNode {
            disk: new.disk.clone(),
            address: address.clone(),
            // Nobody is to take what the new program can read for the operator's wish to raise the level.
            level: rows.level.0.min(new.reads_level),
            zone: new.zone.clone(),
            ..StorageNode::default()
        };
        let added = self.carry(Op::AddStorageNode(AddStorageNode { node: Some(row) })).await?;
        let Outcome::NodeAdded(NodeAdded { node, replica }) = added else {
            return Err(Status::internal("the registry answered with something else"));
        };
        if new.cluster.is_none() {
            // Should this node end here, the new one finds its place in the rows of the others.
            let rows = cluster.rows();
            let mut members = rows.members();
            members.retain(|member| member.node != node);
            let own = pb::Member { node, address, disk: new.disk, registry_replica: replica };
            members.push(own.clone());
            let place = pb::Cluster {
                id: cluster.id.clone(),
                directory_shards: cluster.map.directory.into(),
                timeline_shards: cluster.map.timeline.into(),
                members,
                level: rows.level.0,
            };
            self.bootstrap.place(&own, &place, rows.level.0).await?;
        }
        Ok(Response::new(AddNodeReply { node }))
    }

    async fn set_node_state(
        &self,
        request: Request<SetNodeStateRequest>,
    ) -> Result<Response<SetNodeStateReply>, Status> {
        let request = request.into_inner();
        let state = State::try_from(request.state).map_err(|_| Status::invalid_argument("no such state"))?;
        let cluster = self.cluster()?;
        if state == State::Lost {
            self.check_is_gone(cluster, request.node).await?;
        }
        self.set_state(request.node, state).await?;
        Ok(Response::new(SetNodeStateReply {}))
    }

    async fn move_shard(&self, request: Request<MoveShardRequest>) -> Result<Response<MoveShardReply>, Status> {
        let MoveShardRequest { group, from_node, to_node } = request.into_inner();
        let rows = self.cluster()?.rows();
        let shard = ShardId::from_group(group).filter(|shard| rows.placement().contains_key(shard));
        let shard = shard.ok_or_else(|| Status::invalid_argument("the cluster has no such shard"))?;
        if shard == ShardId::REGISTRY {
            return Err(Status::failed_precondition(format!("{shard} holds the registry and stays on all nodes")));
        }
        let replica = rows.replica_on(shard, from_node);
        let replica = replica.ok_or_else(|| {
            Status::failed_precondition(format!("storage node {from_node} has no replica of {shard}"))
        })?;
        match self.carry(Op::MoveReplica(MoveReplica { group, replica, node: to_node })).await {
            Ok(Outcome::ReplicaPlaced(ReplicaPlaced { replica })) => Ok(Response::new(MoveShardReply { replica })),
            Ok(_) => Err(Status::internal("the registry answered with something else")),
            // An earlier call may have done it, whose answer was lost.
            Err(refused) => {
                let rows = self.cluster()?.rows();
                let replicas = rows.placement().get(&shard).into_iter().flat_map(|placement| &placement.replicas);
                let leaves = replicas.clone().all(|it| it.id != replica || it.leaving);
                let mut comes = replicas.filter(|it| it.node == to_node && it.joining);
                match comes.next().filter(|_| leaves) {
                    Some(new) => Ok(Response::new(MoveShardReply { replica: new.id })),
                    None => Err(refused),
                }
            }
        }
    }

    async fn rebalance(&self, request: Request<RebalanceRequest>) -> Result<Response<RebalanceReply>, Status> {
        self.cluster()?;
        self.carry(Op::Rebalance(Rebalance { on: request.into_inner().on })).await?;
        Ok(Response::new(RebalanceReply {}))
    }

    async fn members(&self, _: Request<MembersRequest>) -> Result<Response<MembersReply>, Status> {
        let cluster = self.member()?;
        let (rows, version) = (cluster.rows(), cluster.view_version());
        let (mut silent, mut slow, mut programs) = (Vec::new(), Vec::new(), Vec::new());
        for (row, answer) in self.bootstrap.ask_members(cluster, &rows).await {
            match answer {
                Ok(Identity { release, reads_level, slow: is_slow, leads, .. }) => {
                    slow.extend(is_slow.then_some(row.node));
                    programs.push(Program { node: row.node, release, reads_level, leads });
                }
                Err(_) => silent.push(row.node),
            }
        }
        Ok(Response::new(MembersReply {
            cluster: cluster.id.clone(),
            level: rows.level.0,
            version,
            nodes: rows.nodes().cloned().collect(),
            placement: rows.placed(),
            rebalancing: rows.rebalancing,
            silent,
            programs,
            slow,
        }))
    }

    async fn raise_level(&self, request: Request<RaiseLevelRequest>) -> Result<Response<RaiseLevelReply>, Status> {
        let cluster = self.member()?;
        let rows = cluster.rows();
        let answers = self.bootstrap.ask_members(cluster, &rows).await;
        let wanted = match request.into_inner().level {
            0 => levels::wished(&answers),
            wanted => Level(wanted),
        };
        // Another node would say the same.
        let stays = |why: String| Status::failed_precondition(format!("the level stays at {}: {why}", rows.level));
        if wanted > rows.level {
            let mut by = levels::nodes_in_the_way(&answers, wanted);
            let nodes = cluster.registry.borrow().nodes.clone();
            // Whoever leads no more has told nothing.
            let holders = self.carrier.holders(cluster).await.and_then(|holders| match holders.is_empty() {
                true if !nodes.is_empty() => Err("the registry changes its leader".to_owned()),
                _ => Ok(holders),
            });
            match holders {
                Ok(holders) => by.extend(levels::holders_in_the_way(&nodes, &holders, wanted)),
                // The leader looks at them itself.
                Err(_) if by.is_empty() => {}
                Err(why) => by.push(Obstacle::Unasked { why }),
            }
            Obstacles::check(wanted, by).map_err(|why| stays(why.to_string()))?;
            let raise = Op::RaiseLevel(RaiseLevel { level: wanted.0 });
            if let Outcome::Error(error) = self.carrier.carry_and_see(raise).await.map_err(stays)? {
                return Err(stays(format!("{:?}", error.why)));
            }
        }
        Ok(Response::new(RaiseLevelReply { level: rows.level.max(wanted).0, before: rows.level.0 }))
    }
}
