//! The client under test: a driver that is told what the user does, and tells what the user sees, one JSON object a line.

use std::{any::Any, future::Future, io, pin::Pin, process::Stdio, thread};

use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncRead, AsyncWrite, AsyncWriteExt as _, BufReader, Lines},
    process::Command,
    sync::oneshot,
};

/// Lines for the driver are read from here.
pub type Input = Box<dyn AsyncRead + Send + Unpin>;
/// Lines of the driver are written to here.
pub type Output = Box<dyn AsyncWrite + Send + Unpin>;

/// A driver inside this process, until it ends.
pub type Driving = Pin<Box<dyn Future<Output = ()>>>;

/// Bytes on their way to a driver inside this process, or from it.
const PIPE_BYTES: usize = 64 * 1024;

/// The command that starts a client.
#[derive(Clone)]
pub enum Client {
    /// A line for the shell.
    Command(String),
    /// Inside this process, on a thread and a runtime of its own.
    Inside(fn(Input, Output) -> Driving),
}

pub(crate) struct Driver {
    to: Output,
    from: Lines<BufReader<Input>>,
    /// Ends the client when it is dropped.
    _running: Box<dyn Any + Send>,
}

impl Client {
    pub(crate) fn start(&self) -> io::Result<Driver> {
        match self {
            Self::Command(line) => {
                let mut shell = Command::new("sh");
                // The shell becomes the client, which so ends with it.
                shell.arg("-c").arg(format!("exec {line}"));
                shell.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
                let mut child = shell.spawn()?;
                let (Some(to), Some(from)) = (child.stdin.take(), child.stdout.take()) else {
                    return Err(io::Error::other("the client has no pipes"));
                };
                Ok(Driver::new(Box::new(to), Box::new(from), Box::new(child)))
            }
            Self::Inside(drive) => {
                let (input, to) = tokio::io::duplex(PIPE_BYTES);
                let (from, output) = tokio::io::duplex(PIPE_BYTES);
                let (running, ended) = oneshot::channel::<()>();
                let drive = *drive;
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                thread::Builder::new().name("client".to_owned()).spawn(move || {
                    runtime.block_on(async {
                        tokio::select! {
                            () = drive(Box::new(input), Box::new(output)) => {}
                            // An error says that the sender is gone.
                            _ = ended => {}
                        }
                    });
                    runtime.shutdown_background();
                })?;
                Ok(Driver::new(Box::new(to), Box::new(from), Box::new(running)))
            }
        }
    }
}

impl Driver {
    fn new(to: Output, from: Input, running: Box<dyn Any + Send>) -> Self {
        Self { to, from: BufReader::new(from).lines(), _running: running }
    }

    pub(crate) async fn tell(&mut self, line: &Value) -> io::Result<()> {
        self.to.write_all(format!("{line}\n").as_bytes()).await?;
        self.to.flush().await
    }

    /// The next line; `None` when the driver has ended. Cancel-safe.
    pub(crate) async fn next(&mut self) -> io::Result<Option<String>> {
        self.from.next_line().await
    }
}
