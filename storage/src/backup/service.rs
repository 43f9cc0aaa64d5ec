//! The gRPC service `Backup`: the records of the shards that this node leads, for the operator.

use std::{
    io::{self, BufWriter, Write},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use carillon_proto::{
    Level, ShardId,
    pb::{
        backup::{
            ClusterDescription, DescribeRequest, NotLeader, ReadPiece, ReadRequest, ShardEnd, ShardHead, backup_server,
            read_piece::Piece,
        },
        raft::SnapshotMeta,
    },
    tasks::Tasks,
};
use prost::Message as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use crate::{
    cluster::{Serving, started},
    raft::ReadError,
    shard::{Reader, Shard},
    snapshot,
};

/// How long a shard may take to hear from a majority, and to apply what was accepted before the call.
const WAIT: Duration = Duration::from_secs(10);
/// Bytes in one message.
const PIECE_BYTES: usize = 256 * 1024;
/// Messages that wait for the network. When they are full, the reading of the shard waits.
const WAITING: usize = 4;

#[derive(Clone)]
pub(crate) struct BackupService {
    serving: Arc<Serving>,
    tasks: Tasks,
    /// One shard at a time, so that users notice little of it.
    reading: Arc<Semaphore>,
}

impl BackupService {
    pub(crate) fn new(serving: Arc<Serving>, tasks: Tasks) -> Self {
        Self { serving, tasks, reading: Arc::new(Semaphore::new(1)) }
    }
}

#[tonic::async_trait]
impl backup_server::Backup for BackupService {
    type ReadStream = ReceiverStream<Result<ReadPiece, Status>>;

    async fn describe(&self, _request: Request<DescribeRequest>) -> Result<Response<ClusterDescription>, Status> {
        let cluster = started(&self.serving)?;
        let rows = cluster.rows();
        let has_rows = cluster.registry.borrow().cluster.has_rows() && rows.level >= Level::CLUSTER;
        if !has_rows && !cluster.is_founded {
            return Err(Status::failed_precondition(format!(
                "the cluster is at level {}, at which it can't be read as a whole: `carillon cluster raise-level` raises it when \
                 all nodes run this release and no return to the one of before is wanted",
                rows.level
            )));
        }
        if !has_rows {
            return Err(Status::unavailable("the cluster was made just now: its members are not in the registry yet"));
        }
        Ok(Response::new(ClusterDescription {
            cluster: cluster.id.clone(),
            level: rows.level.0,
            directory_shards: cluster.map.directory.into(),
            timeline_shards: cluster.map.timeline.into(),
            storage_nodes: rows.nodes().map(|node| node.address.clone()).collect(),
        }))
    }

    async fn read(&self, request: Request<ReadRequest>) -> Result<Response<Self::ReadStream>, Status> {
        let cluster = started(&self.serving)?;
        let ReadRequest { cluster: meant, group } = request.into_inner();
        if meant != cluster.id {
            return Err(Status::failed_precondition(format!("this node is of the cluster {}", cluster.id)));
        }
        let shard = ShardId::from_group(group).filter(|shard| cluster.map.has(*shard));
        let shard = shard.ok_or_else(|| Status::invalid_argument(format!("there is no shard of group {group}")))?;
        let Some(shard) = cluster.hosted.get(shard) else {
            return Ok(Response::new(not_leader(String::new())));
        };
        if shard.alarm().is_raised() {
            return Err(Status::unavailable("the disk fails this node: it leaves service"));
        }
        let reading = Arc::clone(&self.reading).try_acquire_owned();
        let permit = reading.map_err(|_| Status::resource_exhausted("this node is reading another shard"))?;
        match shard.group().linearize(WAIT).await {
            Ok(()) => {}
            Err(ReadError::NotLeader { leader }) => return Ok(Response::new(not_leader(leader.unwrap_or_default()))),
            Err(error) => return Err(Status::unavailable(error.to_string())),
        }
        let (out, pieces) = mpsc::channel(WAITING);
        self.tasks.spawn("backup", forward(shard, permit, out));
        Ok(Response::new(ReceiverStream::new(pieces)))
    }
}

fn not_leader(leader: String) -> ReceiverStream<Result<ReadPiece, Status>> {
    let (out, pieces) = mpsc::channel(1);
    let piece = ReadPiece { piece: Some(Piece::NotLeader(NotLeader { leader })) };
    // The channel is empty.
    let _ = out.try_send(Ok(piece));
    ReceiverStream::new(pieces)
}

/// Ends with the process: then the stream has no end, which its reader notices.
async fn forward(shard: Shard, permit: OwnedSemaphorePermit, out: mpsc::Sender<Result<ReadPiece, Status>>) {
    let (tell, mut pieces) = mpsc::channel(WAITING);
    let reading = tokio::task::spawn_blocking(move || {
        let _permit = permit;
        let (id, alarm) = (shard.id(), shard.alarm());
        alarm
            .hear(format_args!("backup of shard {id}"), read(&shard, &tell))
            .inspect_err(|error| tracing::info!(shard = %id, %error, "a backup was not given the whole shard"))
    });
    while let Some(piece) = pieces.recv().await {
        if out.send(Ok(ReadPiece { piece: Some(piece) })).await.is_err() {
            // The reader has gone, and `reading` fails with its next piece.
            return;
        }
    }
    let failed = match reading.await {
        Ok(Ok(())) => return,
        Ok(Err(error)) => error.to_string(),
        Err(error) => error.to_string(),
    };
    // The reader may have gone.
    let _ = out.send(Err(Status::aborted(failed))).await;
}

/// Blocking.
fn read(shard: &Shard, out: &mpsc::Sender<Piece>) -> io::Result<()> {
    let (applied, mut records) = match shard.reader() {
        Reader::Directory(reader) => reader.copy()?,
        Reader::Timeline(reader) => reader.copy()?,
    };
    let applied = applied.ok_or_else(|| io::Error::other("the replica is empty"))?;
    let meta = SnapshotMeta::decode(&*applied).map_err(io::Error::other)?;
    let head = ShardHead { log_id: meta.last_log_id };
    out.blocking_send(Piece::Head(head)).map_err(|_| gone())?;
    let mut pieces = Pieces { out, bytes: 0, crc32: crc32fast::Hasher::new() };
    let mut buffered = BufWriter::with_capacity(PIECE_BYTES, &mut pieces);
    let records = snapshot::encode(&mut buffered, shard.id().group(), meta, &mut records)?;
    drop(buffered);
    if shard.group().is_closed() {
        return Err(io::Error::other("this node's replica is leaving the shard"));
    }
    let end = ShardEnd { bytes: pieces.bytes, crc32: pieces.crc32.finalize(), records };
    out.blocking_send(Piece::End(end)).map_err(|_| gone())
}

/// Sends what is written.
struct Pieces<'a> {
    out: &'a mpsc::Sender<Piece>,
    bytes: u64,
    crc32: crc32fast::Hasher,
}

impl Write for Pieces<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let piece = &bytes[..bytes.len().min(PIECE_BYTES)];
        self.out.blocking_send(Piece::Data(Bytes::copy_from_slice(piece))).map_err(|_| gone())?;
        self.bytes += piece.len() as u64;
        self.crc32.update(piece);
        Ok(piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn gone() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "the reader of the shard has gone")
}
