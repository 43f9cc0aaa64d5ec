//! The settings of files.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::{Files, FilesError, Media};

/// Files of messages: where they are kept, and how large they may be.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MediaConfig {
    /// A folder, or s3://BUCKET/PREFIX. Empty: the folder `media` in `data_dir` for a process with all roles, and no files in a cluster.
    pub place: String,
    /// The folder is one that all gateways and routers share. Without it a folder is for a process with all roles alone.
    pub shared: bool,
    /// Of storage that is compatible with S3, for example https://s3.example.org. Empty: as AWS_ENDPOINT_URL says.
    pub endpoint: String,
    /// Empty: as AWS_REGION says.
    pub region: String,
    /// A file with the id of the access key in its first line, and its secret in the second. Empty: as AWS_ACCESS_KEY_ID and
    /// AWS_SECRET_ACCESS_KEY say, or the machine's role.
    pub credentials_file: PathBuf,
    /// The part of URLs before `/media/`, for example https://media.example.org. Empty: the address of the WebSocket port, which
    /// clients of other ports have to know.
    pub url: String,
    /// Largest file.
    pub max_file_bytes: u64,
    /// Sum of all files of one user.
    pub max_user_bytes: u64,
    pub max_user_files: u32,
    /// Most uploads at once, of each gateway, and the quarter of them of one user: each takes up to 5 MiB of memory, or three open files
    /// without TLS and with a folder.
    pub max_uploads: usize,
    /// Most downloads at once, of each gateway, and the quarter of them of one user: each takes up to 1 MiB of memory.
    pub max_downloads: usize,
    /// How long the URL of an upload counts, with all its attempts.
    pub upload_url_s: u32,
    /// How long the URL of a download counts.
    pub download_url_s: u32,
    /// A transfer in which nothing moves for this long ends, and so does one that is slower than 1 KiB a second.
    pub idle_timeout_ms: u64,
    /// Largest picture that is stripped of what it tells of its place, and of which a preview is made, and largest index of a film from which its
    /// place is removed; 0: none is.
    pub max_picture_bytes: u64,
    /// Most pictures at once that are stripped, of each gateway: each takes up to twice `max_picture_bytes` of memory.
    pub max_pictures: usize,
    /// Most previews at once, of each gateway: each is made by a process of its own; 0: none is made.
    pub max_previews: usize,
    /// Memory and time of a process that makes a preview. A picture that would need more has no preview.
    pub preview_memory_bytes: u64,
    pub preview_timeout_ms: u64,
    /// Whether a picture or film that says where it was made, which can't be removed, is refused or kept.
    pub told_place: ToldPlace,
}

/// Whether a picture that says where it was made is refused or kept, if that can't be removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ToldPlace {
    Refuse,
    Keep,
}

impl Default for MediaConfig {
    fn default() -> Self {
        Self {
            place: String::new(),
            shared: false,
            endpoint: String::new(),
            region: String::new(),
            credentials_file: PathBuf::new(),
            url: String::new(),
            max_file_bytes: 4 << 30,
            max_user_bytes: 20 << 30,
            max_user_files: 100_000,
            max_uploads: 32,
            max_downloads: 256,
            upload_url_s: 6 * 3600,
            download_url_s: 600,
            idle_timeout_ms: 30_000,
            max_picture_bytes: 32 << 20,
            max_pictures: 4,
            max_previews: 2,
            preview_memory_bytes: 384 << 20,
            preview_timeout_ms: 10_000,
            told_place: ToldPlace::Refuse,
        }
    }
}

/// A setting that can't be used.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    #[error("media.{key} {why}")]
    Setting { key: &'static str, why: String },
    #[error("media.place {place}: {why}")]
    Place { place: String, why: FilesError },
}

/// The longest that an upload may take. What was not whole by then is removed after a day.
const UPLOAD_URL_S: u64 = 12 * 3600;

impl MediaConfig {
    /// The first setting that is not valid, and why.
    pub fn validate(&self) -> Result<(), (&'static str, String)> {
        let within = |key: &'static str, value: u64, least: u64, most: u64| match (least..=most).contains(&value) {
            true => Ok(()),
            false => Err((key, format!("is {value} but must be {least} to {most}"))),
        };
        within("max_file_bytes", self.max_file_bytes, 1, 1 << 40)?;
        within("max_user_bytes", self.max_user_bytes, 1, 1 << 60)?;
        within("max_user_files", self.max_user_files.into(), 1, 10_000_000)?;
        within("max_uploads", self.max_uploads as u64, 1, 100_000)?;
        within("max_downloads", self.max_downloads as u64, 1, 100_000)?;
        within("upload_url_s", self.upload_url_s.into(), 10, UPLOAD_URL_S)?;
        within("download_url_s", self.download_url_s.into(), 10, 24 * 3600)?;
        within("idle_timeout_ms", self.idle_timeout_ms, 100, 600_000)?;
        within("max_picture_bytes", self.max_picture_bytes, 0, 1 << 30)?;
        within("max_pictures", self.max_pictures as u64, 1, 1000)?;
        within("max_previews", self.max_previews as u64, 0, 1000)?;
        within("preview_memory_bytes", self.preview_memory_bytes, 16 << 20, 64 << 30)?;
        within("preview_timeout_ms", self.preview_timeout_ms, 100, 60_000)?;
        let is_url = |url: &str| {
            let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://")).unwrap_or_default();
            !rest.is_empty() && url.bytes().all(|byte| byte.is_ascii_graphic()) && !rest.contains(['?', '#', '@'])
        };
        for (key, url) in [("url", &self.url), ("endpoint", &self.endpoint)] {
            if !url.is_empty() && !is_url(url) {
                return Err((
                    key,
                    format!("is {url:?} but must be https://HOST, perhaps with a port and a path, or empty"),
                ));
            }
        }
        if let Some((scheme, _)) = self.place.split_once("://").filter(|(scheme, _)| *scheme != "s3") {
            return Err(("place", format!("begins with {scheme}:// but must be a folder or s3://BUCKET/PREFIX")));
        }
        Ok(())
    }

    /// Opens the place for files; `None` if there is none. `data_dir`: that of a process with all roles.
    pub fn open(&self, data_dir: Option<&Path>) -> Result<Option<Media>, PlaceError> {
        let place = match (self.place.as_str(), data_dir) {
            ("", None) => return Ok(None),
            ("", Some(data_dir)) => data_dir.join("media").to_string_lossy().into_owned(),
            (place, _) => place.to_owned(),
        };
        let files = if place.starts_with("s3://") {
            self.bucket(&place)
        } else if data_dir.is_none() && !self.shared {
            let why = format!(
                "is the folder {place}, but other gateways and routers would not find there what this one keeps: let it be \
                 s3://BUCKET/PREFIX, or set media.shared = true if the folder is one that all of them share"
            );
            return Err(PlaceError::Setting { key: "place", why });
        } else {
            Files::in_folder(Path::new(&place))
        };
        let files = files.map_err(|why| PlaceError::Place { place, why })?;
        Ok(Some(Media { files, config: self.clone(), previewer: Vec::new() }))
    }

    fn bucket(&self, place: &str) -> Result<Files, FilesError> {
        let credentials = match self.credentials_file.as_os_str().is_empty() {
            true => None,
            false => Some(read_credentials(&self.credentials_file)?),
        };
        Files::in_bucket(place, &self.endpoint, &self.region, credentials)
    }
}

fn read_credentials(file: &Path) -> Result<(String, String), FilesError> {
    let text =
        std::fs::read_to_string(file).map_err(|error| FilesError::Credentials(file.into(), error.to_string()))?;
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    match (lines.next(), lines.next(), lines.next()) {
        (Some(id), Some(secret), None) => Ok((id.to_owned(), secret.to_owned())),
        _ => {
            Err(FilesError::Credentials(file.into(), "it must have two lines: the key's id, and its secret".to_owned()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_for_one_process_unless_it_is_shared() {
        let folder = tempfile::tempdir().expect("folder");
        let place = folder.path().join("x").to_string_lossy().into_owned();
        let config = MediaConfig { place, ..MediaConfig::default() };
        let refused = config.open(None).expect_err("refused").to_string();
        assert!(refused.contains("media.shared = true"), "{refused}");
        let shared = MediaConfig { shared: true, ..config.clone() };
        assert!(shared.open(None).expect("opens").is_some());
        assert!(config.open(Some(folder.path())).expect("opens").is_some());
        assert!(MediaConfig::default().open(None).expect("none").is_none());
        assert!(MediaConfig::default().open(Some(folder.path())).expect("opens").is_some());
        assert!(folder.path().join("media").is_dir());
    }

    #[test]
    fn an_endpoint_that_every_upload_would_fail_at_is_refused_at_the_start() {
        let (place, endpoint) = ("s3://bucket/files".to_owned(), "http://127.0.0.1:9".to_owned());
        let config = MediaConfig { place, endpoint, ..MediaConfig::default() };
        let refused = config.open(None).expect_err("refused").to_string();
        assert!(refused.contains("AWS_ALLOW_HTTP"), "{refused}");
        let endpoint = "https://127.0.0.1:9".to_owned();
        assert!(MediaConfig { endpoint, ..config }.open(None).expect("opens").is_some());
    }

    #[test]
    fn what_cannot_be_is_refused_by_name() {
        MediaConfig::default().validate().expect("valid");
        let key = |change: fn(&mut MediaConfig)| {
            let mut config = MediaConfig::default();
            change(&mut config);
            config.validate().expect_err("refused").0
        };
        assert_eq!(key(|config| config.max_uploads = 0), "max_uploads");
        assert_eq!(key(|config| config.upload_url_s = 24 * 3600), "upload_url_s");
        assert_eq!(key(|config| config.url = "media.example.org".to_owned()), "url");
        assert_eq!(key(|config| config.url = "https://a b".to_owned()), "url");
        assert_eq!(key(|config| config.place = "gs://bucket".to_owned()), "place");
    }

    #[test]
    fn credentials_are_two_lines() {
        let folder = tempfile::tempdir().expect("folder");
        let file = folder.path().join("key");
        for (text, good) in [("id\nsecret\n", true), ("id\n", false), ("id\nsecret\nmore\n", false), ("", false)] {
            std::fs::write(&file, text).expect("writes");
            assert_eq!(read_credentials(&file).is_ok(), good, "{text:?}");
        }
    }
}
