//! Lists the files of a user.

use std::time::{Duration, Instant};

use carillon_proto::{
    UserId,
    pb::store::{MediaRow, User, media_row::State},
};
use clap::Args;

use super::{
    Leader, UserDataError,
    export::account,
    files::{Pages, UserFile},
    lines,
};
use crate::{
    Config,
    cli::{storage_nodes::StorageNodes, table::Table},
};

#[derive(Args)]
pub(in crate::cli) struct FileList {
    name: UserId,
    /// One JSON object a line, for programs: as `user export` writes it.
    #[arg(long)]
    json: bool,
    /// host:port of a storage node; may be repeated. Otherwise storage.members or router.storage.
    #[arg(long = "node", value_name = "HOST:PORT")]
    nodes: Vec<String>,
    /// Seconds after which it is given up.
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    timeout: u64,
}

impl FileList {
    pub(in crate::cli) async fn run(self, config: &Config) -> anyhow::Result<()> {
        let deadline = Instant::now() + Duration::from_secs(self.timeout);
        let mut nodes = StorageNodes::find(config, &self.nodes, deadline).await?;
        let User { account, .. } = account(&self.name, &mut nodes, deadline).await?;
        let Some(account) = account else {
            return Err(UserDataError::Refused(format!("there never was a user {}", self.name)).into());
        };
        let mut table = Table::new(self.json, &["BYTES", "TYPE", "REFERRED TO", "NAME", "ID"]);
        let (mut leader, mut pages) = (Leader::default(), Pages::new(&self.name, account.incarnation, &nodes));
        while let Some(files) = pages.next(&mut leader, &mut nodes, deadline).await? {
            for UserFile { id, row, is_held } in files {
                let columns = [
                    row.size_bytes.to_string(),
                    row.media_type.clone(),
                    state(&row, is_held).to_owned(),
                    row.name.clone(),
                    id.to_string(),
                ];
                table.row(&columns, &lines::file(id, &row, is_held, None))?;
            }
        }
        table.end()
    }
}

/// Whether something refers to the file, in words.
fn state(row: &MediaRow, is_held: bool) -> &'static str {
    match lines::referred_to(row, is_held) {
        _ if row.state() == State::Pending => "not whole",
        Some(_) => "yes",
        None if row.check != 0 => "being looked at",
        None => "not known",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_is_said() {
        let row = |held_ms, released_ms, check| MediaRow {
            state: State::Complete.into(),
            held_ms,
            released_ms,
            check,
            ..MediaRow::default()
        };
        assert_eq!(state(&MediaRow { state: State::Pending.into(), ..row(0, 0, 0) }, false), "not whole");
        assert_eq!(state(&row(0, 0, 0), true), "yes");
        assert_eq!(state(&row(0, 0, 0), false), "not known");
        assert_eq!(state(&row(7, 0, 0), false), "yes", "a message in another shard");
        assert_eq!(state(&row(7, 9, 0), false), "not known", "released since");
        assert_eq!(state(&row(7, 0, 3), false), "being looked at");
    }
}
