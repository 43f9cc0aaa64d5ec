//! Which backups are kept, and what interrupted attempts have left.

use anyhow::bail;
use carillon_proto::now_ms;
use clap::Args;

use super::{
    manifest::Manifest,
    target::{Found, Target},
};

#[derive(Args)]
pub(super) struct Keep {
    /// Keep the newest of this cluster's whole backups, this many, and remove older ones.
    #[arg(long = "keep", value_name = "BACKUPS", value_parser = clap::value_parser!(u32).range(1..))]
    newest: Option<u32>,
    /// Keep this cluster's whole backups of the last days, and remove older ones. With --keep, a backup is kept for either
    /// reason. The newest one is always kept.
    #[arg(long = "keep-days", value_name = "DAYS")]
    days: Option<u32>,
}

/// After this time without a new object an attempt is no longer running.
const LEFT_MS: i64 = 24 * 3600 * 1000;
const DAY_MS: u64 = 24 * 3600 * 1000;

impl Keep {
    /// Removes older whole backups of this cluster, and what its interrupted attempts have left. Returns the names of the
    /// backups that were removed.
    pub(super) async fn apply(&self, target: &Target, cluster: &str) -> anyhow::Result<Vec<String>> {
        let mut whole = Vec::new();
        for name in target.names().await? {
            let found = target.find(&name).await?;
            let attempt = match &found {
                Found::Whole(manifest) => Some(&*manifest.attempt),
                Found::Unfinished => None,
                // Somebody should look at it.
                Found::Unusable(_) => continue,
            };
            remove_left(target, &name, attempt, cluster).await?;
            if let Found::Whole(manifest) = found
                && manifest.cluster == cluster
            {
                whole.push(*manifest);
            }
        }
        let mut removed = Vec::new();
        for manifest in self.older(whole, now_ms()) {
            target.delete_whole(&manifest).await?;
            removed.push(manifest.name);
        }
        Ok(removed)
    }

    /// Those that are not kept.
    fn older(&self, mut whole: Vec<Manifest>, now_ms: u64) -> Vec<Manifest> {
        if self.newest.is_none() && self.days.is_none() {
            return Vec::new();
        }
        whole.sort_by_key(|manifest| std::cmp::Reverse(manifest.began_ms));
        let newest = self.newest.unwrap_or(1) as usize;
        let since = self.days.map_or(u64::MAX, |days| now_ms.saturating_sub(u64::from(days) * DAY_MS));
        whole.into_iter().skip(newest.max(1)).filter(|manifest| manifest.began_ms < since).collect()
    }
}

/// Removes attempts of this cluster that nobody continues.
async fn remove_left(target: &Target, name: &str, whole: Option<&str>, cluster: &str) -> anyhow::Result<()> {
    for attempt in target.attempts(name).await? {
        let is_over = now_ms() as i64 - attempt.last_ms > LEFT_MS;
        if is_over && whole != Some(&*attempt.id) && target.begun(name, &attempt.id).await?.as_deref() == Some(cluster)
        {
            target.delete_attempt(name, attempt).await?;
        }
    }
    Ok(())
}

/// Removes an attempt of this run.
pub(super) async fn remove_attempt(target: &Target, name: &str, id: &str) -> anyhow::Result<()> {
    if let Found::Whole(manifest) = target.find(name).await?
        && manifest.attempt == id
    {
        bail!("attempt {id} is whole");
    }
    for attempt in target.attempts(name).await?.into_iter().filter(|attempt| attempt.id == id) {
        target.delete_attempt(name, attempt).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backup(day: u64) -> Manifest {
        Manifest {
            format: 1,
            name: format!("day-{day}"),
            attempt: "a".to_owned(),
            cluster: "c".to_owned(),
            level: 3,
            directory_shards: 1,
            timeline_shards: 1,
            began_ms: day * DAY_MS,
            ended_ms: day * DAY_MS,
            release: String::new(),
            shards: Vec::new(),
        }
    }

    fn older(newest: Option<u32>, days: Option<u32>, made: &[u64], today: u64) -> Vec<String> {
        let made = made.iter().copied().map(backup).collect();
        Keep { newest, days }.older(made, today * DAY_MS).into_iter().map(|manifest| manifest.name).collect()
    }

    #[test]
    fn what_no_rule_keeps_is_removed_and_never_the_newest() {
        let days = [11, 13, 12, 10];
        assert_eq!(older(None, None, &days, 100), [""; 0]);
        assert_eq!(older(Some(2), None, &days, 13), ["day-11", "day-10"]);
        assert_eq!(older(Some(9), None, &days, 13), [""; 0]);
        assert_eq!(older(None, Some(2), &days, 13), ["day-10"]);
        assert_eq!(older(None, Some(1), &days, 1000), ["day-12", "day-11", "day-10"], "the newest stays");
        assert_eq!(older(Some(1), Some(2), &days, 13), ["day-10"], "either reason keeps it");
        assert_eq!(older(Some(3), Some(0), &days, 13), ["day-10"]);
    }
}
