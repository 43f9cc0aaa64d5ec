//! Storage nodes whose files are damaged: they must notice it, and are made whole as an operator does it.

use std::{
    fs,
    time::{Duration, Instant},
};

use tokio::time::sleep;

use super::{change, fault::Files, inject::note_ended};
use crate::cluster::{Cluster, ClusterError};

/// The exit code of a node whose data is damaged.
const DAMAGED: i32 = 65;
/// How long a node may take to refuse to start, to leave, or to be ready.
const VERDICT: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(50);

/// Waits until the storage node has made a snapshot.
pub(super) async fn wait_for_snapshots(cluster: &Cluster, at: usize) -> Result<(), ClusterError> {
    let folder = cluster.stored(at, Files::Snapshots.path());
    let give_up = Instant::now() + VERDICT;
    let is_one = |entry: fs::DirEntry| entry.path().extension().is_some_and(|ending| ending == "snapshot");
    while !fs::read_dir(&folder).map_err(ClusterError::io(&folder))?.flatten().any(is_one) {
        if Instant::now() > give_up {
            return Err(ClusterError::NothingToSpoil(folder));
        }
        sleep(LOOK).await;
    }
    Ok(())
}

/// Starts the node, whose disk fails all reads of these files: it must leave, and not take that for damage. Says what is wrong.
pub(super) async fn starts_without(
    cluster: &mut Cluster,
    at: usize,
    files: Files,
    notes: &mut Vec<String>,
) -> Result<Option<String>, ClusterError> {
    let unreadable = cluster.stored(at, files.path());
    cluster.nodes[at].kill();
    cluster.disk(at)?.fail_reads(&unreadable)?;
    cluster.nodes[at].start()?;
    let name = cluster.nodes[at].name().to_owned();
    Ok(match cluster.nodes[at].wait_end(VERDICT).await {
        Err(_) => Some(format!("{name} runs though it can't read {}", files.path())),
        Ok(status) if status.code() != Some(1) => Some(format!("{name} can't read {}: {status}", files.path())),
        Ok(_) => {
            notes.push(format!("{name} did not start without {}", files.path()));
            None
        }
    })
}

/// Ends the node if it has not noticed the damage, and starts it: it must not serve. Then it is repaired, and given its place anew if the
/// command says so; whoever calls this starts it otherwise. The inner error is what must not be.
pub(super) async fn make_whole(
    cluster: &mut Cluster,
    at: usize,
    files: Files,
    patience: Duration,
    notes: &mut Vec<String>,
) -> Result<Result<(), String>, ClusterError> {
    note_ended(cluster, at, notes);
    cluster.nodes[at].kill();
    cluster.nodes[at].start()?;
    let ready = cluster.nodes[at].wait_ready(VERDICT).await;
    // Snapshots are read when the node serves already.
    let ready = match (ready, files) {
        (Ok(()), Files::Snapshots) => match cluster.nodes[at].wait_end(VERDICT).await {
            Ok(status) => {
                let node = &cluster.nodes[at];
                Err(ClusterError::Ended { node: node.name().to_owned(), status, log: node.log.clone() })
            }
            Err(_) => Ok(()),
        },
        (ready, _) => ready,
    };
    match ready {
        // The node makes its directory anew by itself, and keeps the old one.
        Ok(()) if files == Files::Directory && cluster.stored(at, "directory.corrupt").exists() => {
            notes.push(format!("{} has made its directory anew by itself", cluster.nodes[at].name()));
            return Ok(Ok(()));
        }
        Ok(()) => return Ok(Err(format!("{} serves on damaged files", cluster.nodes[at].name()))),
        Err(ClusterError::Ended { status, .. }) if status.code() == Some(DAMAGED) => {}
        Err(error) => return Ok(Err(error.to_string())),
    }
    let said = cluster.nodes[at].repair().await?;
    notes.push(format!("{} refused to serve: {said}", cluster.nodes[at].name()));
    let begins_anew = said.contains("carillon cluster replace");
    if begins_anew != matches!(files, Files::Log | Files::Identity) {
        return Ok(Err(format!("{} is not repaired as it should be", cluster.nodes[at].name())));
    }
    if !begins_anew {
        return Ok(Ok(()));
    }
    let lost = cluster.number_of(at).await?;
    let shards = change::shards_on(&cluster.members().await?, lost);
    cluster.nodes[at].start()?;
    cluster.nodes[at].wait_until_it_says("carillon cluster replace", VERDICT).await?;
    let replacing = change::replace(cluster, (lost, shards), at, notes).await?;
    Ok(replacing.finish(cluster, patience).await.map(|took| {
        notes.push(format!("{} had its place anew after {:.1} s", cluster.nodes[at].name(), took.as_secs_f64()));
    }))
}
