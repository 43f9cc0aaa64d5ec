//! Lists backups.

use carillon_proto::now_ms;
use clap::Args;

use super::{Place, size, target::Found};
use crate::cli::{date, table::Table};

#[derive(Args)]
pub(in crate::cli) struct List {
    #[command(flatten)]
    from: Place,
    /// One JSON object a line, for programs.
    #[arg(long)]
    json: bool,
}

impl List {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let target = self.from.open()?;
        let mut table = Table::new(self.json, &["NAME", "BEGAN", "AGE", "SIZE", "STATE", "CLUSTER"]);
        for name in target.names().await? {
            let (columns, json) = match target.find(&name).await? {
                Found::Whole(manifest) => {
                    let age = now_ms().saturating_sub(manifest.began_ms) / 1000;
                    let began = date::format(manifest.began_ms);
                    let columns =
                        [began, shown(age), size(manifest.bytes()), "whole".to_owned(), manifest.cluster.clone()];
                    let json = serde_json::json!({
                        "name": name, "state": "whole", "cluster": manifest.cluster, "began_ms": manifest.began_ms,
                        "ended_ms": manifest.ended_ms, "age_s": age, "bytes": manifest.bytes(),
                        "records": manifest.records(), "level": manifest.level, "release": manifest.release,
                    });
                    (columns, json)
                }
                Found::Unfinished => {
                    (without("unfinished"), serde_json::json!({ "name": name, "state": "unfinished" }))
                }
                Found::Unusable(why) => {
                    let json = serde_json::json!({ "name": name, "state": "unusable", "why": why.to_string() });
                    (without(&format!("unusable: {why}")), json)
                }
            };
            let columns: Vec<String> = [name].into_iter().chain(columns).collect();
            table.row(&columns, &json)?;
        }
        table.end()
    }
}

fn without(state: &str) -> [String; 5] {
    [String::new(), String::new(), String::new(), state.to_owned(), String::new()]
}

fn shown(age_s: u64) -> String {
    match age_s {
        0..120 => format!("{age_s} s"),
        120..7200 => format!("{} min", age_s / 60),
        7200..172_800 => format!("{} h", age_s / 3600),
        _ => format!("{} days", age_s / 86_400),
    }
}
