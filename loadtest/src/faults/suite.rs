//! Schedules, each run several times on a cluster of its own.

use std::path::PathBuf;

use super::{
    Change, Report, Row, RunOptions, Schedule, change,
    fault::Needs,
    run::{RunFailed, run},
};
use crate::cluster::{Cluster, ClusterConfig, Counts, Keeping, Layout};

#[derive(Debug, Clone)]
pub(crate) struct Suite {
    /// The schedules, each with its name.
    pub(crate) schedules: Vec<(String, Schedule)>,
    pub(crate) runs: usize,
    pub(crate) program: PathBuf,
    pub(crate) folder: PathBuf,
    /// With namespaces, even faults that need none run in them.
    pub(crate) layout: Layout,
    pub(crate) disk_mib: u64,
    pub(crate) options: RunOptions,
}

impl Suite {
    pub(crate) async fn run(&self, said: impl Fn(&str)) -> Report {
        let mut report = Report::default();
        for (number, (name, schedule)) in self.schedules.iter().enumerate() {
            let folder = self.folder.join(format!("{:02}-{}", number + 1, file_name(name)));
            let mut row = Row { name: name.clone(), runs: Vec::new(), failed: Vec::new() };
            if let Err(failed) = self.runs_of(schedule, folder, &mut row, &said).await {
                said(&format!("{name}: FAILED: {failed}"));
                row.failed.push(failed.to_string());
            }
            report.rows.push(row);
        }
        report
    }

    async fn runs_of(
        &self,
        schedule: &Schedule,
        folder: PathBuf,
        row: &mut Row,
        said: impl Fn(&str),
    ) -> Result<(), RunFailed> {
        if let Some(change) = schedule.change() {
            return self.changes_of(schedule, change, folder, row, said).await;
        }
        let mut cluster = Cluster::start(&self.cluster(schedule, folder)).await?;
        for round in 0..self.runs {
            let record = run(&mut cluster, schedule, round, &self.options).await?;
            said(&format!("{} [{}/{}] {}", row.name, round + 1, self.runs, record.lines()));
            let stuck = !record.problems.is_empty();
            row.runs.push(record);
            if stuck && round + 1 < self.runs {
                // Later runs would say nothing on a cluster that did not come back.
                drop(cluster);
                let again = self.folder.join(format!("{}-again-{}", file_name(&row.name), round + 1));
                cluster = Cluster::start(&self.cluster(schedule, again)).await?;
            }
        }
        Ok(())
    }

    /// A change makes another cluster of the one it begins with, so each run has its own.
    async fn changes_of(
        &self,
        schedule: &Schedule,
        change: Change,
        folder: PathBuf,
        row: &mut Row,
        said: impl Fn(&str),
    ) -> Result<(), RunFailed> {
        for round in 0..self.runs {
            let mut cluster = Cluster::start(&self.cluster(schedule, folder.join(format!("{}", round + 1)))).await?;
            change::prepare(&mut cluster, change, self.options.change_patience).await?;
            match run(&mut cluster, schedule, round, &self.options).await {
                Ok(record) => {
                    said(&format!("{} [{}/{}] {}", row.name, round + 1, self.runs, record.lines()));
                    row.runs.push(record);
                }
                Err(missed @ RunFailed::Missed) => {
                    said(&format!("{} [{}/{}] FAILED: {missed}", row.name, round + 1, self.runs));
                    row.failed.push(missed.to_string());
                }
                Err(failed) => return Err(failed),
            }
        }
        Ok(())
    }

    fn cluster(&self, schedule: &Schedule, folder: PathBuf) -> ClusterConfig {
        let namespaces = self.layout == Layout::Namespaces || schedule.needs(Needs::Namespaces);
        let third = (std::process::id() % 250) as u8 + 1;
        ClusterConfig {
            program: self.program.clone(),
            folder,
            layout: if namespaces { Layout::Namespaces } else { Layout::Loopback },
            subnet: if namespaces { [10, 232, third] } else { [127, 32, third] },
            disk_mib: schedule.needs(Needs::Disks).then_some(self.disk_mib),
            clocks: schedule.needs(Needs::Clocks),
            counts: Counts::FULL,
            keeping: if schedule.needs_snapshots() { Keeping::HalfAnHourWithSnapshots } else { Keeping::HalfAnHour },
        }
    }
}

fn file_name(name: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' };
    name.chars().map(plain).collect()
}
