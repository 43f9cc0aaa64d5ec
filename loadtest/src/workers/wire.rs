//! Messages on a TCP connection: the length in four bytes, and JSON.

use std::{io, time::Duration};

use serde::{Serialize, de::DeserializeOwned};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    time::timeout,
};

/// The longest message of someone who has not shown yet that he knows the secret.
pub(super) const STRANGERS_BYTES: usize = 4 * 1024;
/// A report with many examples and histograms has some hundred kilobytes.
pub(super) const MOST_BYTES: usize = 32 * 1024 * 1024;
/// How long a message may take to leave.
const SEND: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
pub(crate) enum WireError {
    #[error("the connection is closed")]
    Closed,
    #[error("connection: {0}")]
    Io(#[from] io::Error),
    #[error("a message of {0} bytes is longer than any should be")]
    TooLong(usize),
    #[error("a message can't be read: {0}")]
    Json(#[from] serde_json::Error),
    #[error("nothing was heard for {0:?}")]
    Silent(Duration),
}

/// Not cancel-safe: a message that was read in part is lost.
pub(super) async fn receive<T: DeserializeOwned>(
    from: &mut (impl AsyncRead + Unpin),
    most_bytes: usize,
    patience: Duration,
) -> Result<T, WireError> {
    let reading = async {
        let mut length = [0; 4];
        match from.read_exact(&mut length).await {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Err(WireError::Closed),
            read => read?,
        };
        let length = u32::from_be_bytes(length) as usize;
        if length > most_bytes {
            return Err(WireError::TooLong(length));
        }
        let mut bytes = vec![0; length];
        from.read_exact(&mut bytes).await?;
        Ok(serde_json::from_slice(&bytes)?)
    };
    timeout(patience, reading).await.unwrap_or(Err(WireError::Silent(patience)))
}

pub(super) async fn send(to: &mut (impl AsyncWrite + Unpin), message: &impl Serialize) -> Result<(), WireError> {
    let mut bytes = vec![0; 4];
    serde_json::to_writer(&mut bytes, message)?;
    let length = bytes.len() - 4;
    let short = u32::try_from(length).ok().filter(|_| length <= MOST_BYTES).ok_or(WireError::TooLong(length))?;
    bytes[..4].copy_from_slice(&short.to_be_bytes());
    timeout(SEND, to.write_all(&bytes)).await.map_err(|_| WireError::Silent(SEND))??;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(5);

    #[tokio::test]
    async fn messages_are_read_as_they_were_sent_and_the_end_is_told() {
        let (mut here, mut there) = tokio::io::duplex(64);
        let sending = async {
            send(&mut here, &vec!["a"; 100]).await.expect("sent");
            send(&mut here, &7).await.expect("sent");
            drop(here);
        };
        let receiving = async {
            let words: Vec<String> = receive(&mut there, 1000, PATIENCE).await.expect("read");
            let number: u32 = receive(&mut there, 1000, PATIENCE).await.expect("read");
            assert_eq!((words.len(), number), (100, 7));
            assert!(matches!(receive::<u32>(&mut there, 1000, PATIENCE).await, Err(WireError::Closed)));
        };
        tokio::join!(sending, receiving);
    }

    #[tokio::test]
    async fn what_is_too_long_is_refused_before_it_is_read() {
        let (mut here, mut there) = tokio::io::duplex(64);
        here.write_all(&u32::MAX.to_be_bytes()).await.expect("written");
        let read = receive::<u32>(&mut there, STRANGERS_BYTES, PATIENCE).await;
        assert!(matches!(read, Err(WireError::TooLong(length)) if length == u32::MAX as usize));
    }

    #[tokio::test]
    async fn who_is_silent_is_not_waited_for() {
        let (_here, mut there) = tokio::io::duplex(64);
        let read = receive::<u32>(&mut there, STRANGERS_BYTES, Duration::from_millis(10)).await;
        assert!(matches!(read, Err(WireError::Silent(_))));
    }
}
