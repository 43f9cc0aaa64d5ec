//! `carillon trace`: what became of a message.
//!
//! ```text
//! named.rs    the ways to name a message
//! story.rs    what is told about it
//! ```

mod named;
mod story;

use anyhow::{anyhow, bail};
use carillon_proto::{
    UserId,
    pb::admin::{TraceMessageReply, TraceMessageRequest},
};
use clap::Args;
use tonic::{Code, Status};

use self::{named::Named, story::Story};
use super::{
    admin_client::{Routers, with_deadline},
    out,
    table::Output,
};
use crate::Config;

#[derive(Args)]
pub(super) struct Trace {
    /// SENDER/DEVICE/CLIENT_ID, as the client named it; or USER/POSITION or USER/MESSAGE_ID, where it stands in the inbox of its
    /// sender or recipient.
    message: Named,
    /// The recipient: its inbox is looked into even if the sender's does not have the message.
    #[arg(long, value_name = "USER")]
    to: Option<UserId>,
    #[command(flatten)]
    output: Output,
}

impl Trace {
    pub(super) async fn run(self, config: &Config) -> anyhow::Result<()> {
        let routers = Routers::of(config, self.output.router.as_deref())?;
        let mut told = None;
        for request in self.message.requests(self.to.as_ref())? {
            let reply = ask(&routers, request).await?;
            if reply.message.is_some() {
                told = Some(reply);
                break;
            }
            told.get_or_insert(reply);
        }
        let told = told.unwrap_or_default();
        let story = Story::of(&told);
        if self.output.json {
            out::line(story.to_json())?;
        } else {
            out::print(story.to_text())?;
        }
        if told.message.is_none() { Err(anyhow!("message {} was not found", self.message)) } else { Ok(()) }
    }
}

async fn ask(routers: &Routers, request: TraceMessageRequest) -> anyhow::Result<TraceMessageReply> {
    let asked = routers.ask(async |mut admin, deadline| {
        let reply = admin.trace_message(with_deadline(request.clone(), deadline)).await;
        // The next router may be of this release.
        reply.map_err(|status| match status.code() {
            Code::Unimplemented => Status::unavailable("the router's release does not know this command"),
            _ => status,
        })
    });
    match asked.await? {
        Ok(reply) => Ok(reply.into_inner()),
        Err(status) => bail!("{}", status.message()),
    }
}
