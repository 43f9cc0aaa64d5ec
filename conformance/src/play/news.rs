//! Lines of the driver, and connections and frames of the client, in the order in which they come.

use std::{
    fmt,
    time::{Duration, Instant},
};

use carillon_proto::pb::client::ClientFrame;
use serde_json::{Value, json};
use tokio::time::sleep_until;

use super::Player;
use crate::{carrier::Heard, rules::Broken, stage::Arrival};

/// Frames and lines that a report has.
const TOLD: usize = 40;

/// An event from the client or its driver.
pub(super) enum News {
    Line(Value),
    /// The client has ended.
    Ended,
    Arrival(Arrival),
    Heard(Heard),
    Time,
}

impl Player {
    /// True if the client has ended by itself.
    pub(super) async fn has_ended(&mut self) -> Result<bool, String> {
        match self.news(Instant::now() + Duration::from_millis(20), true).await? {
            News::Ended => Ok(true),
            news => self.take(news).map(|()| false),
        }
    }

    /// Takes everything that has come already.
    pub(super) async fn drain(&mut self) -> Result<(), String> {
        loop {
            match self.news(Instant::now() + Duration::from_millis(20), false).await? {
                News::Time => return Ok(()),
                news => self.take(news)?,
            }
            self.answer_by_the_way().await?;
        }
    }

    /// Waits for whatever comes first. `ends`: whether the end of the client is news.
    pub(super) async fn news(&mut self, deadline: Instant, ends: bool) -> Result<News, String> {
        let Self { driver, on, stage, closed, .. } = self;
        let line = async {
            match driver {
                Some(driver) => driver.next().await,
                None => std::future::pending().await,
            }
        };
        let heard = async {
            match on {
                Some(carrier) if !*closed => carrier.next().await,
                _ => std::future::pending().await,
            }
        };
        let news = tokio::select! {
            line = line => match line {
                Ok(Some(line)) => News::Line(serde_json::from_str(&line).map_err(|_| format!("the driver says {line:?}, which is no JSON"))?),
                Ok(None) | Err(_) => News::Ended,
            },
            heard = heard => News::Heard(heard),
            arrival = stage.next() => News::Arrival(arrival.map_err(|error| format!("can't accept: {error}"))?),
            () = sleep_until(deadline.into()) => News::Time,
        };
        if matches!(news, News::Ended) {
            self.driver = None;
            if !ends {
                // The client may have ended in order.
                return Box::pin(self.news(deadline, ends)).await;
            }
        }
        Ok(news)
    }

    pub(super) fn take(&mut self, news: News) -> Result<(), String> {
        let now = Instant::now();
        match news {
            News::Line(line) => {
                self.note(format_args!("shown   {line}"));
                self.lines.push_back(line);
            }
            News::Arrival(Arrival::Connection(carrier)) => {
                self.note(format_args!("client  connects"));
                self.rules.connected(now).map_err(in_words)?;
                // A client has one connection: the one of before is over. Frames of the new one are read when the scene comes to it.
                self.closed = true;
                self.arrived.push_back(carrier);
            }
            News::Arrival(Arrival::Http(ask)) => {
                self.note(format_args!("http    {}", ask.what));
                self.asked.push_back(ask);
            }
            News::Arrival(Arrival::Wrong(why)) => return Err(why),
            News::Heard(Heard::Frame(frame, size)) => {
                let shown = shown(&frame);
                self.note(format_args!("client  {shown}"));
                self.rules.heard(&frame, size, now).map_err(in_words)?;
                self.world.heard(&frame);
                self.heard += 1;
                self.frames.push_back(shown);
            }
            News::Heard(Heard::NoFrame(why)) => return Err(format!("the client sends no frame: {why}")),
            News::Heard(Heard::End) => {
                self.note(format_args!("client  closes"));
                self.closed = true;
            }
            News::Ended | News::Time => {}
        }
        Ok(())
    }

    pub(super) fn note(&mut self, what: fmt::Arguments<'_>) {
        if self.told.len() == TOLD {
            self.told.pop_front();
        }
        self.told.push_back(what.to_string());
    }
}

fn in_words(broken: Broken) -> String {
    broken.to_string()
}

fn shown(frame: &ClientFrame) -> Value {
    // Fails only for values of enums that nobody knows.
    let mut frame = serde_json::to_value(frame).unwrap_or_else(|error| json!({"unreadable": error.to_string()}));
    if let Some(renew) = frame.get_mut("renew").and_then(Value::as_object_mut) {
        // Canonical JSON leaves 0 out, by which the answer names it.
        renew.entry("request").or_insert(0.into());
    }
    frame
}
