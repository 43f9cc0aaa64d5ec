//! Makes a backup: asks the leader of each shard for its records, one shard after the other.

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use axum::body::Bytes;
use carillon_proto::{
    ShardId, now_ms,
    pb::backup::{
        ClusterDescription, NotLeader, ReadPiece, ReadRequest, ShardEnd, ShardHead, read_piece::Piece as Answer,
    },
    peer::cause,
};
use clap::Args;
use sha2::{Digest as _, Sha256};
use tokio::time::{sleep, sleep_until, timeout};
use tonic::Streaming;

use super::{
    BackupError, check_name,
    manifest::{Manifest, Piece, ShardFile, hex},
    retention::{self, Keep},
    size,
    target::{Found, Target, attempt_id},
};
use crate::{
    Config,
    cli::{date, out, storage_nodes::StorageNodes},
};

#[derive(Args)]
pub(in crate::cli) struct Create {
    /// Where to: a folder, or s3://BUCKET/PREFIX with credentials, region and endpoint in the AWS_… variables.
    #[arg(long, value_name = "FOLDER|URL")]
    to: String,
    /// The backup's name; otherwise the time. With a name of the day, another run of that day does nothing.
    #[arg(long, value_parser = check_name)]
    name: Option<String>,
    /// host:port of a storage node; may be repeated. Otherwise storage.members or router.storage.
    #[arg(long = "node", value_name = "HOST:PORT")]
    nodes: Vec<String>,
    /// Most bytes that are read in a second.
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u64).range(1..))]
    rate_bytes: Option<u64>,
    #[command(flatten)]
    keep: Keep,
    /// Seconds after which it is given up.
    #[arg(long, value_name = "SECONDS", default_value_t = 21_600, value_parser = clap::value_parser!(u64).range(1..=604_800))]
    timeout: u64,
    /// The result as a JSON object, for programs.
    #[arg(long)]
    json: bool,
}

/// Bytes of one object, which is held in memory.
const PIECE_BYTES: usize = 16 << 20;
/// A stream that brings nothing for this long is given up. Longer than a node takes to hear from a majority.
const SILENCE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(500);

impl Create {
    pub(super) async fn run(self, config: &Config) -> anyhow::Result<()> {
        let deadline = Instant::now() + Duration::from_secs(self.timeout);
        let target = Target::open_or_make(&self.to)?;
        let mut source = StorageNodes::find(config, &self.nodes, deadline).await?;
        let cluster = source.cluster.cluster.clone();
        let name = self.name.clone().unwrap_or_else(|| date::format(now_ms()).replace(':', ""));
        let (manifest, is_new) = match target.find(&name).await? {
            Found::Whole(there) if there.cluster == cluster => (*there, false),
            Found::Whole(there) => {
                let why =
                    format!("{name} is a backup of another cluster, {}: give another name or place", there.cluster);
                return Err(BackupError::Refused(why).into());
            }
            Found::Unusable(why) => {
                let why =
                    format!("there is something by the name {name} that can't be used ({why}): give another name");
                return Err(BackupError::Refused(why).into());
            }
            Found::Unfinished => {
                let attempt = attempt_id();
                match self.attempt(&target, &mut source, &name, &attempt, deadline).await {
                    Ok(made) => made,
                    Err(error) => {
                        // What stays is removed by a later run.
                        let _ = retention::remove_attempt(&target, &name, &attempt).await;
                        return Err(error.context(format!("backup {name} was not made")));
                    }
                }
            }
        };
        let removed = self.keep.apply(&target, &cluster).await;
        self.tell(&manifest, is_new, removed.as_deref().unwrap_or_default())?;
        removed.context("the backup is whole, but older ones can't be removed").map(drop)
    }

    /// False: another run was faster.
    async fn attempt(
        &self,
        target: &Target,
        source: &mut StorageNodes,
        name: &str,
        attempt: &str,
        deadline: Instant,
    ) -> anyhow::Result<(Manifest, bool)> {
        let ClusterDescription { cluster, level, .. } = source.cluster.clone();
        let map = source.map()?;
        target.begin(name, attempt, &cluster).await?;
        let (began, began_ms) = (Instant::now(), now_ms());
        let mut pace = Pace { bytes_per_second: self.rate_bytes, next: Instant::now() };
        // Accounts after inboxes: whoever owns an inbox or has ended it is there, then.
        let mut shards: Vec<ShardId> = map.all().collect();
        shards.reverse();
        let mut files = Vec::with_capacity(shards.len());
        for shard in shards {
            files.push(
                source
                    .shard(shard, began, &mut Destination { target, name, attempt, pace: &mut pace }, deadline)
                    .await?,
            );
        }
        let manifest = Manifest {
            format: Manifest::FORMAT,
            name: name.to_owned(),
            attempt: attempt.to_owned(),
            cluster,
            level,
            directory_shards: map.directory,
            timeline_shards: map.timeline,
            began_ms,
            ended_ms: now_ms(),
            release: env!("CARGO_PKG_VERSION").to_owned(),
            shards: files,
        };
        if target.publish(&manifest).await? {
            return Ok((manifest, true));
        }
        retention::remove_attempt(target, name, attempt).await?;
        Ok((target.whole(name).await?, false))
    }

    fn tell(&self, manifest: &Manifest, is_new: bool, removed: &[String]) -> anyhow::Result<()> {
        let Manifest { name, cluster, began_ms, ended_ms, .. } = manifest;
        if self.json {
            return out::line(serde_json::json!({
                "name": name, "cluster": cluster, "made": is_new, "began_ms": began_ms, "ended_ms": ended_ms,
                "bytes": manifest.bytes(), "records": manifest.records(), "removed": removed,
            }));
        }
        if is_new {
            let seconds = ended_ms.saturating_sub(*began_ms) as f64 / 1000.0;
            let (bytes, records) = (size(manifest.bytes()), manifest.records());
            out::line(format_args!(
                "backup {name} of cluster {cluster} is whole: {records} records, {bytes}, {seconds:.1} s"
            ))?;
        } else {
            out::line(format_args!("backup {name} of cluster {cluster} is whole already"))?;
        }
        removed.iter().try_for_each(|name| out::line(format_args!("removed: backup {name}")))
    }
}

/// Bounds the bytes in a second.
struct Pace {
    bytes_per_second: Option<u64>,
    next: Instant,
}

impl Pace {
    /// When the next bytes may be taken, which then take their time.
    fn due(&mut self, now: Instant, bytes: usize) -> Instant {
        let Some(rate) = self.bytes_per_second else { return now };
        let due = self.next.max(now);
        self.next = due + Duration::from_secs_f64(bytes as f64 / rate as f64);
        due
    }

    async fn take(&mut self, bytes: usize) {
        sleep_until(self.due(Instant::now(), bytes).into()).await;
    }
}

/// Where a shard goes to.
struct Destination<'a> {
    target: &'a Target,
    name: &'a str,
    attempt: &'a str,
    pace: &'a mut Pace,
}

/// Why one try to read a shard came to nothing.
enum Failed {
    /// Another node leads the shard; the text is its address, or empty if that is not known.
    NotLeader(String),
    /// The node, or the way to it.
    Node(String),
    /// Another try would fail, too.
    Fatal(anyhow::Error),
}

impl StorageNodes {
    /// Reads a shard, from whoever leads it, until it is whole.
    async fn shard(
        &mut self,
        shard: ShardId,
        began: Instant,
        into: &mut Destination<'_>,
        deadline: Instant,
    ) -> anyhow::Result<ShardFile> {
        let mut hint: Option<String> = None;
        let mut attempt = 0;
        loop {
            let node = match hint.take().filter(|node| !node.is_empty()) {
                Some(node) => node,
                None => self.nodes[attempt % self.nodes.len()].clone(),
            };
            let folder = format!("{shard}.{attempt}");
            let why = match self.try_shard(shard, &node, &folder, began, into).await {
                Ok(file) => return Ok(file),
                Err(Failed::Fatal(error)) => return Err(error),
                Err(Failed::NotLeader(leader)) => {
                    let why = format!("storage node {node} does not lead it");
                    // Told by the node itself, or it does not know better.
                    hint = Some(leader).filter(|leader| *leader != node);
                    why
                }
                Err(Failed::Node(why)) => format!("storage node {node}: {why}"),
            };
            if Instant::now() + PAUSE >= deadline {
                bail!("{shard} was not read in time: {why}");
            }
            if hint.as_ref().is_none_or(String::is_empty) {
                sleep(PAUSE).await;
            }
            attempt += 1;
        }
    }

    async fn try_shard(
        &mut self,
        shard: ShardId,
        node: &str,
        folder: &str,
        began: Instant,
        into: &mut Destination<'_>,
    ) -> Result<ShardFile, Failed> {
        let after_ms = began.elapsed().as_millis() as u64;
        let request = ReadRequest { cluster: self.cluster.cluster.clone(), group: shard.group() };
        let mut client = self.backup(node).map_err(Failed::Fatal)?;
        let answer = timeout(SILENCE, client.read(request)).await.map_err(|_| silent())?;
        let mut pieces = answer.map_err(|status| Failed::Node(cause(&status)))?.into_inner();
        let log_id = match next(&mut pieces).await? {
            Some(Answer::Head(ShardHead { log_id })) => log_id.unwrap_or_default(),
            Some(Answer::NotLeader(NotLeader { leader })) => return Err(Failed::NotLeader(leader)),
            _ => return Err(Failed::Node("its answer has no head".to_owned())),
        };
        let mut writer = Writer { into, folder, piece: Vec::new(), pieces: Vec::new(), whole: Sha256::new(), bytes: 0 };
        let mut crc32 = crc32fast::Hasher::new();
        loop {
            match next(&mut pieces).await? {
                Some(Answer::Data(data)) => {
                    crc32.update(&data);
                    writer.write(&data).await.map_err(Failed::Fatal)?;
                }
                Some(Answer::End(ShardEnd { bytes, crc32: sum, records })) => {
                    if (bytes, sum) != (writer.bytes, crc32.finalize()) {
                        return Err(Failed::Node("what came is not what it sent".to_owned()));
                    }
                    let (pieces, bytes, sha256) = writer.finish().await.map_err(Failed::Fatal)?;
                    let (term, index) = (log_id.term, log_id.index);
                    let (shard, folder) = (shard.to_string(), folder.to_owned());
                    return Ok(ShardFile { shard, folder, after_ms, term, index, records, bytes, sha256, pieces });
                }
                Some(_) => return Err(Failed::Node("its answer is not understood".to_owned())),
                None => return Err(Failed::Node("its answer was cut off".to_owned())),
            }
        }
    }
}

async fn next(pieces: &mut Streaming<ReadPiece>) -> Result<Option<Answer>, Failed> {
    let piece = timeout(SILENCE, pieces.message()).await.map_err(|_| silent())?;
    let piece = piece.map_err(|status| Failed::Node(cause(&status)))?;
    Ok(piece.and_then(|piece| piece.piece))
}

fn silent() -> Failed {
    Failed::Node(format!("nothing came for {} s", SILENCE.as_secs()))
}

/// Cuts the bytes of a shard into objects.
struct Writer<'a, 'b> {
    into: &'a mut Destination<'b>,
    folder: &'a str,
    piece: Vec<u8>,
    pieces: Vec<Piece>,
    whole: Sha256,
    bytes: u64,
}

impl Writer<'_, '_> {
    async fn write(&mut self, mut data: &[u8]) -> anyhow::Result<()> {
        self.into.pace.take(data.len()).await;
        self.bytes += data.len() as u64;
        while !data.is_empty() {
            let (now, later) = data.split_at(data.len().min(PIECE_BYTES - self.piece.len()));
            self.piece.extend_from_slice(now);
            data = later;
            if self.piece.len() == PIECE_BYTES {
                self.put().await?;
            }
        }
        Ok(())
    }

    async fn put(&mut self) -> anyhow::Result<()> {
        let bytes = Bytes::from(std::mem::take(&mut self.piece));
        self.whole.update(&bytes);
        let Destination { target, name, attempt, .. } = &*self.into;
        let path = target.piece(name, attempt, self.folder, self.pieces.len());
        self.pieces.push(Piece { bytes: bytes.len() as u64, sha256: hex(&Sha256::digest(&bytes)) });
        target.put(&path, bytes).await
    }

    async fn finish(mut self) -> anyhow::Result<(Vec<Piece>, u64, String)> {
        if !self.piece.is_empty() {
            self.put().await?;
        }
        Ok((self.pieces, self.bytes, hex(&self.whole.finalize())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_kept_whatever_the_size_of_the_pieces() {
        let now = Instant::now();
        let after = |pace: &mut Pace, bytes| pace.due(now, bytes).duration_since(now).as_millis();
        let mut pace = Pace { bytes_per_second: Some(1000), next: now };
        assert_eq!([1000, 500, 500, 1].map(|bytes| after(&mut pace, bytes)), [0, 1000, 1500, 2000]);
        let later = now + Duration::from_secs(60);
        assert_eq!(pace.due(later, 1000), later, "what was not used is not made up for");
        assert_eq!(pace.due(later, 1000), later + Duration::from_secs(1));
        assert_eq!(after(&mut Pace { bytes_per_second: None, next: later }, usize::MAX), 0);
    }
}
