//! Carries out a step of a schedule, and heals it.

use std::time::{Duration, Instant};

use carillon_proto::tasks::Tasks;

use super::{
    Fault, Step, Target,
    change::{self, Underway},
    damage,
    fault::Files,
};
use crate::cluster::{Cluster, ClusterError, Filter, Role};

/// A step that has begun.
pub(crate) struct Active {
    step: Step,
    /// Indexes of the nodes that the step hit.
    nodes: Vec<usize>,
    filters: Vec<Filter>,
    /// When the nodes were known and the injection began.
    pub(crate) struck: Instant,
    /// If the step is a change.
    pub(crate) change: Option<Underway>,
}

/// Longer than the program's own limit for an orderly end.
const ORDERLY_END: Duration = Duration::from_secs(30);
/// How long a node of a rolling restart may take to be ready.
const READY_AGAIN: Duration = Duration::from_secs(120);

impl Active {
    pub(crate) fn names(&self, cluster: &Cluster) -> Vec<String> {
        self.nodes.iter().map(|at| cluster.nodes[*at].name().to_owned()).collect()
    }
}

/// Indexes of the nodes that a target means in this round.
async fn resolve(cluster: &Cluster, target: Target, round: usize) -> Result<Vec<usize>, ClusterError> {
    let turn = |role| {
        let nodes = cluster.of(role);
        vec![nodes[round % nodes.len()]]
    };
    Ok(match target {
        Target::StorageLeader => cluster.storage_by_leadership().await?[..1].to_vec(),
        Target::StorageFollower => {
            let mut by_leadership = cluster.storage_by_leadership().await?;
            // A node that has just come leads nothing, and is a target of its own.
            by_leadership.retain(|at| cluster.newest().ok() != Some(*at));
            by_leadership.split_off(by_leadership.len().saturating_sub(1))
        }
        Target::Controller => vec![cluster.controller().await?],
        // A node that is yet to come has no index.
        Target::New => cluster.newest().into_iter().collect(),
        Target::Storage => cluster.of(Role::Storage),
        Target::Router => turn(Role::Router),
        Target::Routers => cluster.of(Role::Router),
        Target::Gateway => turn(Role::Gateway),
        Target::Gateways => cluster.of(Role::Gateway),
        Target::All => {
            [Role::Storage, Role::Router, Role::Gateway].into_iter().flat_map(|role| cluster.of(role)).collect()
        }
    })
}

/// Filters for packets between the places that the fault hits and the others.
fn filters(fault: Fault, hit: &[usize], all: usize) -> Vec<Filter> {
    let (arriving, leaving, percent) = match fault {
        Fault::Partition => (true, true, 100),
        Fault::Deaf => (true, false, 100),
        Fault::Mute => (false, true, 100),
        Fault::Loss(percent) => (true, true, percent),
        _ => return Vec::new(),
    };
    let pairs = hit.iter().flat_map(|node| (0..all).map(move |peer| (*node, peer)));
    // A pair of nodes that are both hit appears twice; one filter is enough.
    let pairs = pairs.filter(|(node, peer)| node != peer && !(hit.contains(peer) && peer < node));
    let both = pairs.flat_map(|(node, peer)| {
        let arriving = arriving.then_some(Filter { from: peer, to: node, percent });
        arriving.into_iter().chain(leaving.then_some(Filter { from: node, to: peer, percent }))
    });
    both.collect()
}

/// Adds what an operator would want to know to `notes`. `None` if the fault was to strike in the middle of this change, and the change
/// was done before.
pub(crate) async fn begin(
    cluster: &mut Cluster,
    step: Step,
    round: usize,
    in_the_middle_of: Option<&Underway>,
    tasks: &Tasks,
    notes: &mut Vec<String>,
) -> Result<Option<Active>, ClusterError> {
    let nodes = resolve(cluster, step.target, round).await?;
    if let Some(change) = in_the_middle_of
        && change.is_done(cluster).await?
    {
        return Ok(None);
    }
    let struck = Instant::now();
    if let Some(change) = step.fault.change() {
        let underway = change::begin(cluster, change, nodes.first().copied(), notes).await?;
        let nodes = underway.nodes(cluster);
        return Ok(Some(Active { step, nodes, filters: Vec::new(), struck, change: Some(underway) }));
    }
    let places: Vec<_> = nodes.iter().map(|at| cluster.nodes[*at].place).collect();
    let filters = filters(step.fault, &places, cluster.places());
    if !filters.is_empty() {
        cluster.network()?.add(&filters)?;
    }
    for (at, place) in nodes.iter().copied().zip(places) {
        match step.fault {
            Fault::Kill => cluster.nodes[at].kill(),
            Fault::Restart
            | Fault::Roll
            | Fault::Partition
            | Fault::Deaf
            | Fault::Mute
            | Fault::Loss(_)
            | Fault::Change(_) => {}
            Fault::Pause => cluster.nodes[at].signal("STOP")?,
            Fault::Unplug => cluster.network()?.unplug(place)?,
            Fault::Delay(ms) => cluster.network()?.slow(place, ms, tasks)?,
            Fault::SlowDisk(kbit) => cluster.disk(at)?.slow(kbit)?,
            Fault::FullDisk => cluster.disk(at)?.fill()?,
            Fault::DiskErrors => cluster.disk(at)?.fail()?,
            Fault::ReadErrors(files) => {
                if files == Files::Snapshots {
                    damage::wait_for_snapshots(cluster, at).await?;
                }
                let of_these = cluster.stored(at, files.path());
                cluster.disk(at)?.fail_reads(&of_these)?;
            }
            Fault::PowerCut => {
                cluster.disk(at)?.cut_power();
                cluster.nodes[at].kill();
            }
            Fault::Clock(seconds) => cluster.set_clock(at, seconds)?,
            Fault::Damage(files) => cluster.spoil(at, files.path()).await?,
            Fault::DamageAtRest(files) => {
                if files == Files::Snapshots {
                    damage::wait_for_snapshots(cluster, at).await?;
                }
                cluster.nodes[at].kill();
                cluster.spoil(at, files.path()).await?;
            }
        }
    }
    match step.fault {
        Fault::Restart => end_in_order(cluster, &nodes, notes).await?,
        Fault::Roll => {
            for at in nodes.iter().copied() {
                end_in_order(cluster, &[at], notes).await?;
                cluster.nodes[at].start()?;
                cluster.nodes[at].wait_ready(READY_AGAIN).await?;
            }
        }
        _ => {}
    }
    Ok(Some(Active { step, nodes, filters, struck, change: None }))
}

/// Ends these nodes as an operator does; all of them get the signal before the first one is waited for.
async fn end_in_order(cluster: &mut Cluster, nodes: &[usize], notes: &mut Vec<String>) -> Result<(), ClusterError> {
    for at in nodes {
        cluster.nodes[*at].signal("TERM")?;
    }
    for at in nodes {
        let status = cluster.nodes[*at].wait_end(ORDERLY_END).await?;
        if !status.success() {
            notes.push(format!("{} ended with {status} after SIGTERM", cluster.nodes[*at].name()));
        }
    }
    Ok(())
}

/// Adds what an operator would want to know to `notes`, and what must not be to `problems`. `patience`: for a node that is given its
/// place anew.
pub(crate) async fn end(
    cluster: &mut Cluster,
    active: &Active,
    patience: Duration,
    notes: &mut Vec<String>,
    problems: &mut Vec<String>,
) -> Result<(), ClusterError> {
    if !active.filters.is_empty() {
        cluster.network()?.remove(&active.filters)?;
    }
    for at in active.nodes.iter().copied() {
        match active.step.fault {
            Fault::Kill
            | Fault::Restart
            | Fault::Roll
            | Fault::Partition
            | Fault::Deaf
            | Fault::Mute
            | Fault::Loss(_)
            | Fault::Change(_) => {}
            Fault::Pause => cluster.nodes[at].signal("CONT")?,
            Fault::Unplug => {
                let place = cluster.nodes[at].place;
                cluster.network()?.plug(place)?;
            }
            Fault::Delay(_) => {
                let place = cluster.nodes[at].place;
                cluster.network()?.fast(place);
            }
            Fault::SlowDisk(_) => cluster.disk(at)?.fast()?,
            Fault::FullDisk => cluster.disk(at)?.empty()?,
            Fault::DiskErrors | Fault::ReadErrors(_) | Fault::PowerCut => {
                note_ended(cluster, at, notes);
                if let Fault::ReadErrors(files) = active.step.fault {
                    problems.extend(damage::starts_without(cluster, at, files, notes).await?);
                }
                if cluster.nodes[at].runs() {
                    notes.push(format!("{} still ran", cluster.nodes[at].name()));
                    cluster.nodes[at].kill();
                }
                cluster.disk(at)?.detach();
                cluster.disk(at)?.attach()?;
            }
            Fault::Clock(_) => cluster.set_clock(at, 0)?,
            Fault::Damage(files) | Fault::DamageAtRest(files) => {
                let whole = damage::make_whole(cluster, at, files, patience, notes).await?;
                problems.extend(whole.err());
            }
        }
    }
    for at in 0..cluster.nodes.len() {
        note_ended(cluster, at, notes);
        if active.nodes.contains(&at) && !cluster.nodes[at].runs() && !cluster.nodes[at].retired {
            cluster.nodes[at].start()?;
        }
    }
    Ok(())
}

pub(super) fn note_ended(cluster: &mut Cluster, at: usize, notes: &mut Vec<String>) {
    if let Some(status) = cluster.nodes[at].ended() {
        notes.push(format!("{} ended by itself with {status}", cluster.nodes[at].name()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ways(fault: Fault, hit: &[usize]) -> Vec<(usize, usize, u8)> {
        filters(fault, hit, 3).iter().map(|filter| (filter.from, filter.to, filter.percent)).collect()
    }

    #[test]
    fn a_cut_has_its_directions() {
        assert_eq!(ways(Fault::Deaf, &[1]), [(0, 1, 100), (2, 1, 100)]);
        assert_eq!(ways(Fault::Mute, &[1]), [(1, 0, 100), (1, 2, 100)]);
        assert_eq!(ways(Fault::Partition, &[0]), [(1, 0, 100), (0, 1, 100), (2, 0, 100), (0, 2, 100)]);
        assert_eq!(ways(Fault::Kill, &[0]), []);
    }

    #[test]
    fn loss_hits_each_way_once_though_all_nodes_have_it() {
        let all = ways(Fault::Loss(9), &[0, 1, 2]);
        assert_eq!(all.len(), 6);
        assert!(all.iter().all(|(from, to, percent)| from != to && *percent == 9));
    }
}
