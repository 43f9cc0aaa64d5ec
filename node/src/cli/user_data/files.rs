//! Files of a user: what is known of each, and their bytes for an export.

use std::{
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Context as _, anyhow};
use carillon_media::{CHUNK_BYTES, Files, Version};
use carillon_proto::{
    MediaId, UserId,
    pb::{
        store::{MediaRow, media_row::State},
        userdata::{self, FilePage, FilesRequest, files_reply},
    },
};

use super::{
    Answer, CALL, Export, Leader, UserDataError,
    export::{Writer, not_understood},
    lines,
};
use crate::{
    Config,
    cli::{callees::with_deadline, storage_nodes::StorageNodes},
};

/// The folder of an export with the bytes of files, each under its id.
const FOLDER: &str = "files";

/// Where the bytes of files are, and where they go.
pub(super) struct Place {
    files: Files,
    folder: PathBuf,
}

impl Place {
    pub(super) fn open(config: &Config, to: &Path) -> anyhow::Result<Self> {
        let refused = |why: &str| Err(UserDataError::Refused(why.to_owned()).into());
        if to == Path::new("-") {
            return refused("--files needs a folder for the files: --to FOLDER");
        }
        if config.media.place.is_empty() && !config.data_dir.join("media").is_dir() {
            return refused("media.place does not say where files are kept: set it as the gateways have it");
        }
        let media = config.media.open(Some(&config.data_dir))?.context("there is no place for files")?;
        Ok(Self { files: media.files, folder: to.join(FOLDER) })
    }

    /// Writes the bytes of a file that is whole.
    async fn write(&self, id: MediaId, version: Version, size_bytes: u64) -> anyhow::Result<()> {
        fs::create_dir_all(&self.folder)?;
        let path = self.folder.join(id.to_string());
        let mut file = File::create_new(&path).with_context(|| format!("can't write {}", path.display()))?;
        let mut at = 0;
        while at < size_bytes {
            let bytes = self.files.read(&id, version, at..size_bytes.min(at + CHUNK_BYTES)).await;
            let bytes = bytes.with_context(|| format!("file {id} can't be read"))?;
            if bytes.is_empty() {
                return Err(anyhow!("file {id} is shorter than it should be"));
            }
            at += bytes.len() as u64;
            file.write_all(&bytes).with_context(|| format!("can't write {}", path.display()))?;
        }
        Ok(file.sync_all()?)
    }
}

impl Export {
    pub(super) async fn list_files(
        &self,
        incarnation: u64,
        leader: &mut Leader,
        (nodes, deadline): (&mut StorageNodes, Instant),
        place: Option<&Place>,
        writer: &mut Writer,
    ) -> anyhow::Result<()> {
        let mut pages = Pages::new(&self.name, incarnation, nodes);
        while let Some(files) = pages.next(leader, nodes, deadline).await? {
            for UserFile { id, row, is_held } in files {
                let is_whole = row.state() == State::Complete;
                if let Some(place) = place.filter(|_| is_whole) {
                    let version = Version::of_row(&row.sha256).context(NOT_UNDERSTOOD)?;
                    place.write(id, version, row.size_bytes).await?;
                }
                let path = place.filter(|_| is_whole).map(|_| format!("{FOLDER}/{id}"));
                writer.line(&lines::file(id, &row, is_held, path))?;
            }
        }
        Ok(())
    }
}

const NOT_UNDERSTOOD: &str = "a file that is not understood";

/// What the store has of a file.
pub(super) struct UserFile {
    pub(super) id: MediaId,
    pub(super) row: MediaRow,
    /// Something in the owner's shard refers to it.
    pub(super) is_held: bool,
}

/// The files of a user, page by page.
pub(super) struct Pages {
    /// `None`: there are no more.
    request: Option<FilesRequest>,
}

impl Pages {
    pub(super) fn new(user: &UserId, incarnation: u64, nodes: &StorageNodes) -> Self {
        let (cluster, user) = (nodes.cluster.cluster.clone(), user.as_str().to_owned());
        Self { request: Some(FilesRequest { cluster, user, incarnation, ..FilesRequest::default() }) }
    }

    pub(super) async fn next(
        &mut self,
        leader: &mut Leader,
        nodes: &mut StorageNodes,
        deadline: Instant,
    ) -> anyhow::Result<Option<Vec<UserFile>>> {
        let Some(request) = self.request.take() else { return Ok(None) };
        let asked = leader.ask(nodes, deadline, async |mut node| {
            match node.files(with_deadline(request.clone(), CALL)).await?.into_inner().answer {
                Some(files_reply::Answer::NotLeader(other)) => Ok(Answer::NotLeader(other)),
                Some(files_reply::Answer::Page(page)) => Ok(Answer::Found(page)),
                None => Err(not_understood()),
            }
        });
        let FilePage { files, next } = asked.await?;
        self.request = (!next.is_empty()).then(|| FilesRequest { after: next, ..request });
        let file = |userdata::File { id, row, held }| {
            let (id, row) = MediaId::from_bytes(&id).zip(row).context(NOT_UNDERSTOOD)?;
            Ok(UserFile { id, row, is_held: held })
        };
        files.into_iter().map(file).collect::<anyhow::Result<_>>().map(Some)
    }
}
