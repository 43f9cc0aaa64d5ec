//! Files: uploads and downloads, which go on after interruptions.

mod http;
mod local;
mod progress;

use std::{
    io::{self, SeekFrom},
    path::PathBuf,
    time::Duration,
};

use bytes::Bytes;
use carillon_proto::{
    TimelineId,
    pb::client::{Media, MediaSlot, MediaUrl, RequestMediaSlot, RequestMediaUrl},
};
use tokio::io::{AsyncRead, AsyncSeek, AsyncSeekExt as _, AsyncWrite};

use crate::{
    Client, FetchError,
    fetches::{Found, Query},
};
use http::{Broken, Http, Transfer};
pub use progress::Moved;

/// Attempts in a row that move nothing, before a transfer is given up.
const ATTEMPTS: u32 = 5;
/// The pause after the first of them; it doubles each time.
const PAUSE: Duration = Duration::from_millis(250);

/// Description of a file, for others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewFile {
    pub size_bytes: u64,
    /// For example image/png. The service looks into the file and tells others what it finds there.
    pub media_type: String,
    /// Without a path.
    pub name: String,
}

#[derive(Debug, thiserror::Error)]
pub enum MediaError {
    #[error(transparent)]
    Asked(#[from] FetchError),
    #[error("the service names no host for files, and the client knows none: set ClientConfig.media_url")]
    NoAddress,
    #[error("the address {0:?} of a file can't be used")]
    Address(String),
    #[error("the service answered {status}: {why}")]
    Refused { status: u16, why: String },
    #[error("the transfer broke {ATTEMPTS} times without progress, the last time because of: {0}")]
    Broken(String),
    #[error("the local file: {0}")]
    Local(#[source] io::Error),
    #[error("{0}: {1}")]
    Path(PathBuf, #[source] io::Error),
    #[error("there is no message at this position")]
    NoMessage,
    #[error("the message has no file that this service keeps")]
    NoFile,
}

impl Client {
    /// Uploads a file. Returns what the messages that refer to it say of it: its id and name, its size and type as the service has found them, and of a
    /// picture width, height, a small preview and the hash. The service removes from pictures what they tell of their place: then the size is
    /// another one. Width, height and duration of sound and video are for the sender to add.
    ///
    /// After an interruption it goes on behind what the service has, at whichever gateway.
    ///
    /// ```no_run
    /// # async fn example(client: carillon_client::Client) -> Result<(), Box<dyn std::error::Error>> {
    /// use carillon_proto::pb::client::{Content, Media, content::Body};
    /// let mut file = tokio::fs::File::open("cat.png").await?;
    /// let size_bytes = file.metadata().await?.len();
    /// let new = carillon_client::NewFile { size_bytes, media_type: "image/png".into(), name: "cat.png".into() };
    /// let media = client.upload(new, &mut file).await?;
    /// let image = Media { caption: "look".into(), ..media };
    /// client.send(carillon_client::Client::user("bob"), Content { body: Some(Body::Image(image)), ..Default::default() }).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn upload(
        &self,
        file: NewFile,
        from: &mut (impl AsyncRead + AsyncSeek + Unpin + Send),
    ) -> Result<Media, MediaError> {
        let NewFile { size_bytes, media_type, name } = file;
        let ask = RequestMediaSlot { request: 0, size_bytes, media_type: media_type.clone(), name: name.clone() };
        let slot = match self.find(Query::MediaSlot(ask)).await? {
            Found::MediaSlot(slot) => slot,
            _ => return Err(FetchError::OtherAnswer.into()),
        };
        let MediaSlot { id, url, .. } = slot;
        let http = self.http(&url)?;
        let (mut at, mut tries) = (0, Tries::default());
        loop {
            from.seek(SeekFrom::Start(at)).await.map_err(MediaError::Local)?;
            let why = match http.put(at, size_bytes, from).await {
                Transfer::Done(told) => {
                    // An older service says nothing.
                    let told =
                        serde_json::from_str(&told).unwrap_or(Media { media_type, size_bytes, ..Media::default() });
                    return Ok(Media { id, name, ..told });
                }
                Transfer::Refused { status, why } => return Err(MediaError::Refused { status, why }),
                Transfer::Local(error) => return Err(MediaError::Local(error)),
                Transfer::Broken(why) => why,
            };
            // The service may have kept more whole chunks; without an answer nothing more is known.
            let kept = http.stored().await.unwrap_or(at);
            tries.broken(kept > at, why).await?;
            at = kept;
        }
    }

    /// Asks where a file can be downloaded. `of`: a message that refers to it, by timeline and position; `None`: it is the user's own.
    pub async fn media_url(&self, id: &Bytes, of: Option<(&TimelineId, u64)>) -> Result<MediaUrl, FetchError> {
        let (timeline, seq) = of.map_or((None, 0), |(timeline, seq)| (Some(timeline.to_client()), seq));
        let ask = RequestMediaUrl { request: 0, id: id.clone(), timeline, seq };
        match self.find(Query::MediaUrl(ask)).await? {
            Found::MediaUrl(url) => Ok(url),
            _ => Err(FetchError::OtherAnswer),
        }
    }

    /// Downloads a file from this byte on; `of` as in [`Client::media_url`]. Returns what the service says of it.
    ///
    /// After an interruption it goes on where it was.
    pub async fn download(
        &self,
        id: &Bytes,
        of: Option<(&TimelineId, u64)>,
        from: u64,
        into: &mut (impl AsyncWrite + Unpin + Send),
    ) -> Result<MediaUrl, MediaError> {
        let (mut at, mut tries) = (from, Tries::default());
        loop {
            // The address of the attempt before may have expired.
            let told = self.media_url(id, of).await?;
            let before = at;
            if at >= told.size_bytes {
                return Ok(told);
            }
            match self.http(&told.url)?.get(&mut at, into).await {
                Transfer::Done(_) => return Ok(told),
                Transfer::Refused { status, why } => return Err(MediaError::Refused { status, why }),
                Transfer::Local(error) => return Err(MediaError::Local(error)),
                Transfer::Broken(why) => tries.broken(at > before, why).await?,
            }
        }
    }

    fn http(&self, url: &str) -> Result<Http, MediaError> {
        let (base, mut connect) = self.media_base();
        let whole = match (url.starts_with('/'), base) {
            (false, _) => {
                // The name belongs to a gateway.
                connect.server_name = None;
                url.to_owned()
            }
            (true, Some(base)) => format!("{}{url}", base.trim_end_matches('/')),
            (true, None) => return Err(MediaError::NoAddress),
        };
        Http::new(&whole, connect).ok_or(MediaError::Address(whole))
    }
}

#[derive(Default)]
struct Tries(u32);

impl Tries {
    /// Waits for the next attempt, if there is one.
    async fn broken(&mut self, moved: bool, Broken { why, after }: Broken) -> Result<(), MediaError> {
        self.0 = if moved { 1 } else { self.0 + 1 };
        if self.0 >= ATTEMPTS {
            return Err(MediaError::Broken(why));
        }
        tokio::time::sleep(after.max(PAUSE * 2_u32.pow(self.0 - 1))).await;
        Ok(())
    }
}
