//! `carillon watch`: a user's traffic, as it passes through the routers.

mod line;

use std::{
    collections::BTreeSet,
    pin::pin,
    time::{Duration, Instant},
};

use anyhow::bail;
use carillon_proto::{
    UserId,
    pb::{
        admin::{StatusReply, WatchEvent, WatchRequest},
        store::NodeKind,
    },
    peer::cause,
};
use clap::Args;
use futures_util::{
    StreamExt as _,
    stream::{self, BoxStream, SelectAll},
};
use tokio::time::{sleep, timeout};
use tonic::{Code, Status};

use super::{
    admin_client::{Admin, Routers},
    out,
    status::fetch,
    table::Output,
};
use crate::Config;

#[derive(Args)]
pub(super) struct Watch {
    user: UserId,
    #[command(flatten)]
    output: Output,
}

/// How often it is asked which routers there are.
const LOOK: Duration = Duration::from_secs(2);
/// Deadline for opening a router's stream.
const OPEN: Duration = Duration::from_secs(5);
/// How long no router may answer before the command ends.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is heard of one router.
enum Heard {
    Event(Box<WatchEvent>),
    /// Its stream has ended, or could not be opened.
    Ended(Status),
}

impl Watch {
    /// Runs until the operator ends it, or nobody reads its output any more.
    pub(super) async fn run(self, config: &Config) -> anyhow::Result<()> {
        let routers = Routers::of(config, self.output.router.as_deref())?;
        let mut watching = Watching {
            user: self.user,
            json: self.output.json,
            open: BTreeSet::new(),
            streams: SelectAll::new(),
            began: false,
            told: BTreeSet::new(),
        };
        // Goes on while events come: a router that does not answer holds up none of them.
        let mut looks = pin!(stream::unfold(Duration::ZERO, |pause| {
            let routers = &routers;
            async move {
                sleep(pause).await;
                Some((fetch(routers).await, LOOK))
            }
        }));
        let mut answered = Instant::now();
        loop {
            // Both are cancel-safe.
            tokio::select! {
                Some((router, heard)) = watching.streams.next() => watching.heard(&router, heard)?,
                Some(looked) = looks.next() => match looked {
                    Ok(status) => {
                        answered = Instant::now();
                        watching.follow(&routers, &status)?;
                    }
                    Err(error) if !watching.began || answered.elapsed() > PATIENCE => return Err(error),
                    // It may be the one that is asked first which stops.
                    Err(_) => {}
                },
            }
        }
    }
}

struct Watching {
    user: UserId,
    json: bool,
    /// The routers that tell what passes, or are asked to.
    open: BTreeSet<String>,
    streams: SelectAll<BoxStream<'static, (String, Heard)>>,
    began: bool,
    /// The routers that can't be watched, and of which that was said.
    told: BTreeSet<String>,
}

impl Watching {
    /// Messages that the user sends pass through the routers of their recipients: all are watched.
    fn follow(&mut self, routers: &Routers, status: &StatusReply) -> anyhow::Result<()> {
        let nodes = status.registry.iter().flat_map(|view| &view.nodes);
        let known: BTreeSet<_> =
            nodes.filter(|node| node.kind() == NodeKind::Router).map(|node| node.address.clone()).collect();
        self.told.retain(|router| known.contains(router));
        for address in known {
            if self.open.insert(address.clone()) {
                let admin = routers.at(&address)?;
                self.streams.push(events(admin, address, self.user.as_str().to_owned()));
            }
        }
        Ok(())
    }

    fn heard(&mut self, router: &str, heard: Heard) -> anyhow::Result<()> {
        let status = match heard {
            Heard::Event(event) => {
                self.began = true;
                self.told.remove(router);
                let line = line::event(router, &event);
                return if self.json { out::line(line.json) } else { out::line(line.text) };
            }
            Heard::Ended(status) => status,
        };
        // It is tried again when the routers are looked for next.
        self.open.remove(router);
        if matches!(
            status.code(),
            Code::NotFound | Code::InvalidArgument | Code::PermissionDenied | Code::Unauthenticated
        ) {
            bail!("{}", status.message());
        }
        let why = match status.code() {
            Code::Unimplemented => "its release does not know this command".to_owned(),
            _ => cause(&status),
        };
        if self.told.insert(router.to_owned()) {
            let line = line::gap(router, &why);
            return if self.json { out::line(line.json) } else { out::line(line.text) };
        }
        Ok(())
    }
}

fn events(mut admin: Admin, router: String, user: String) -> BoxStream<'static, (String, Heard)> {
    let name = router.clone();
    let opened = async move {
        let opened = timeout(OPEN, admin.watch(WatchRequest { user })).await;
        let opened = opened.map_err(|_| Status::deadline_exceeded("it does not answer"));
        match opened.and_then(|opened| opened) {
            Ok(events) => {
                let ended = stream::once(async { Err(Status::unavailable("it has stopped, or is gone")) });
                events.into_inner().chain(ended).boxed()
            }
            Err(status) => stream::once(async { Err(status) }).boxed(),
        }
    };
    // The first error is the end.
    let until_error = |ended: &mut bool, event: Result<WatchEvent, Status>| {
        let next = (!*ended).then(|| match event {
            Ok(event) => Heard::Event(Box::new(event)),
            Err(status) => {
                *ended = true;
                Heard::Ended(status)
            }
        });
        std::future::ready(next)
    };
    stream::once(opened).flatten().scan(false, until_error).map(move |heard| (name.clone(), heard)).boxed()
}
