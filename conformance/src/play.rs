//! Playing a scene, from its first step to the verdict.

mod news;

use std::{
    collections::{HashSet, VecDeque},
    fmt,
    time::{Duration, Instant},
};

use carillon_proto::{
    now_ms,
    pb::client::{Code, server_frame::Body},
};
use serde_json::{Value, json};

use self::news::News;
use crate::{
    Act, Client, Names, Outgoing, Scene, Step, World, build,
    carrier::Carrier,
    driver::Driver,
    rules::Rules,
    scene::HttpStep,
    stage::{HttpAsk, Stage},
};

const USER: &str = "alice";
const DEVICE: &str = "phone";
const TOKEN: &str = "a token";
/// The kinds of frames that a client may send whenever it likes. A scene that names one of them looks at each.
const BY_THE_WAY: [&str; 3] = ["ack", "ping", "fetch"];

/// The outcome of a scene.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Played {
    pub verdict: Verdict,
    /// The last frames and lines, for the report of a failure.
    pub told: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Passed,
    /// At this line of the scene; 0: at no certain one.
    Failed {
        line: usize,
        why: String,
    },
    /// The driver can't do this.
    Skipped {
        lacks: String,
    },
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Passed => write!(f, "passed"),
            Self::Failed { line, why } => write!(f, "FAILED at line {line}: {why}"),
            Self::Skipped { lacks } => write!(f, "skipped: the driver can't do {lacks}"),
        }
    }
}

/// Plays a scene to a client. `patience`: how long each step waits for what it expects.
pub async fn play(scene: &Scene, client: &Client, patience: Duration) -> Played {
    let mut player = match Player::open(scene, client.clone(), patience).await {
        Ok(player) => player,
        Err(why) => return Played { verdict: Verdict::Failed { line: 0, why }, told: Vec::new() },
    };
    let verdict = match player.play(scene).await {
        Ok(None) => Verdict::Passed,
        Ok(Some(lacks)) => Verdict::Skipped { lacks },
        Err((line, why)) => Verdict::Failed { line, why },
    };
    Played { verdict, told: player.told.into() }
}

struct Player {
    client: Client,
    password: Option<String>,
    patience: Duration,
    stage: Stage,
    driver: Option<Driver>,
    /// Lasts as long as the scene.
    folder: tempfile::TempDir,
    names: Names,
    world: World,
    rules: Rules,
    on: Option<Carrier>,
    arrived: VecDeque<Carrier>,
    asked: VecDeque<HttpAsk>,
    frames: VecDeque<Value>,
    /// Frames of the client, of all kinds.
    heard: u64,
    /// The connection in use has ended by the client.
    closed: bool,
    lines: VecDeque<Value>,
    /// Kinds of frames and lines that the scene names: each one counts.
    frame_kinds: HashSet<String>,
    line_kinds: HashSet<String>,
    echoes: u32,
    told: VecDeque<String>,
}

impl Player {
    async fn open(scene: &Scene, client: Client, patience: Duration) -> Result<Self, String> {
        let failed = |what: &str, error: std::io::Error| format!("{what}: {error}");
        let mut frame_kinds = HashSet::new();
        let mut line_kinds = HashSet::from(["ready".to_owned(), "echo".to_owned()]);
        for Step { act, .. } in &scene.steps {
            match act {
                Act::Says(frame) => frame_kinds.extend(kind_of(frame)),
                Act::SignsIn(_) => frame_kinds.extend(["signIn".to_owned()]),
                Act::Shown(line) => line_kinds.extend(line["shown"].as_str().map(str::to_owned)),
                _ => {}
            }
        }
        Ok(Self {
            client,
            password: scene.password.clone(),
            patience,
            stage: Stage::open().await.map_err(|error| failed("can't listen", error))?,
            driver: None,
            folder: tempfile::tempdir().map_err(|error| failed("can't make a folder", error))?,
            names: Names::default(),
            world: World::new(USER, DEVICE),
            rules: Rules::new(),
            on: None,
            arrived: VecDeque::new(),
            asked: VecDeque::new(),
            frames: VecDeque::new(),
            heard: 0,
            closed: false,
            lines: VecDeque::new(),
            frame_kinds,
            line_kinds,
            echoes: 0,
            told: VecDeque::new(),
        })
    }

    /// `Some`: what the driver can't do.
    async fn play(&mut self, scene: &Scene) -> Result<Option<String>, (usize, String)> {
        let can = self.start().await.map_err(|why| (0, why))?;
        if let Some(lacks) = scene.needs.iter().find(|needed| !can.contains(needed)) {
            return Ok(Some(lacks.clone()));
        }
        for Step { line, act } in &scene.steps {
            self.act(act).await.map_err(|why| (*line, why))?;
        }
        let last = scene.steps.last().map_or(0, |step| step.line);
        self.nothing_else().await.map_err(|why| (last, why))?;
        Ok(None)
    }

    async fn act(&mut self, act: &Act) -> Result<(), String> {
        match act {
            Act::User(line) => {
                let line = self.names.fill(line, now_ms())?;
                self.tell(&line).await
            }
            Act::Shown(pattern) => {
                let pattern = self.names.fill_known(pattern, now_ms())?;
                let line = self.next_line(&pattern).await?;
                self.names.matches(&pattern, &line).map_err(|why| format!("{why}, in what the client shows: {line}"))
            }
            Act::ShownNothing => self.echo().await,
            Act::Connects => self.connects().await,
            Act::SignsIn(more) => {
                self.connects().await?;
                self.says(&json!({"signIn": {}})).await?;
                self.send(&[json!({"signedIn": more})], false).await
            }
            Act::Says(pattern) => self.says(pattern).await,
            Act::SaysNothing(time) => self.says_nothing(*time).await,
            Act::SaysSomething(time) => self.says_something(*time).await,
            Act::StaysAway(time) => {
                if self.arrived_within(*time).await? {
                    return Err(format!("the client connects within {time:?}"));
                }
                Ok(())
            }
            Act::Closes => self.closes().await,
            Act::Killed => {
                self.driver = None;
                self.lines.clear();
                // The client is gone when its connection is. Frames that it sent before count.
                self.closes().await
            }
            Act::Starts => {
                self.rules.started();
                self.start().await.map(drop)
            }
            Act::Server(frames) => self.send(frames, false).await,
            Act::ServerLater(frame) => self.send(std::slice::from_ref(frame), true).await,
            Act::ServerHalf(frame) => {
                let made = self.make(frame, false)?;
                if let Some(mut carrier) = self.on.take() {
                    // The client may be gone, which is no worse.
                    let _ = carrier.send_half(&made).await;
                }
                Ok(())
            }
            Act::Cuts => {
                self.on = None;
                Ok(())
            }
            Act::Http(step) => self.http(step).await,
        }
    }

    /// Starts the client. Returns what its driver can do.
    async fn start(&mut self) -> Result<Vec<String>, String> {
        self.driver = Some(self.client.start().map_err(|error| format!("can't start the client: {error}"))?);
        let (tcp, ws) = self.stage.addresses().map_err(|error| error.to_string())?;
        let folder = self.folder.path().display().to_string();
        let mut start = json!({"do": "start", "tcp": tcp, "ws": ws, "user": USER, "device": DEVICE, "folder": folder});
        match &self.password {
            Some(password) => start["password"] = json!(password),
            None => start["token"] = json!(TOKEN),
        }
        self.tell(&start).await?;
        let ready = self.next_line(&json!({"shown": "ready"})).await?;
        let can = ready["can"].as_array().into_iter().flatten();
        Ok(can.filter_map(|can| can.as_str().map(str::to_owned)).collect())
    }

    async fn tell(&mut self, line: &Value) -> Result<(), String> {
        self.note(format_args!("user    {line}"));
        let driver = self.driver.as_mut().ok_or("the client does not run")?;
        driver.tell(line).await.map_err(|error| format!("the client takes no lines any more: {error}"))
    }

    /// The next line of the driver of a kind that the scene names.
    async fn next_line(&mut self, expected: &Value) -> Result<Value, String> {
        let line = self.line_before_end(expected).await?;
        line.ok_or_else(|| format!("the client has ended, and does not show {expected}"))
    }

    /// As `next_line`; `None`: the client has ended.
    async fn line_before_end(&mut self, expected: &Value) -> Result<Option<Value>, String> {
        let deadline = Instant::now() + self.patience;
        loop {
            while let Some(line) = self.lines.pop_front() {
                if line["shown"].as_str().is_some_and(|kind| self.line_kinds.contains(kind)) {
                    return Ok(Some(line));
                }
            }
            match self.news(deadline, true).await? {
                News::Time => return Err(format!("the client does not show {expected} within {:?}", self.patience)),
                News::Ended => return Ok(None),
                news => self.take(news)?,
            }
        }
    }

    /// The driver has said nothing else that the scene would have named.
    async fn echo(&mut self) -> Result<(), String> {
        let is_echoed = self.is_echoed().await?;
        if is_echoed { Ok(()) } else { Err("the client has ended".to_owned()) }
    }

    /// As `echo`; false if the client has ended meanwhile.
    async fn is_echoed(&mut self) -> Result<bool, String> {
        self.echoes += 1;
        let echo = json!({"do": "echo", "number": self.echoes});
        if let Err(why) = self.tell(&echo).await {
            return if self.has_ended().await? { Ok(false) } else { Err(why) };
        }
        let wanted = json!({"shown": "echo", "number": self.echoes});
        let Some(line) = self.line_before_end(&wanted).await? else { return Ok(false) };
        self.names.matches(&wanted, &line).map_err(|_| format!("the client shows too much: {line}"))?;
        Ok(true)
    }

    /// At the end: neither lines nor frames that the scene does not have.
    async fn nothing_else(&mut self) -> Result<(), String> {
        if self.driver.is_some() && !self.has_ended().await? {
            // A client that was stopped may end now.
            self.is_echoed().await?;
        }
        self.drain().await?;
        let named = |line: &&Value| line["shown"].as_str().is_some_and(|kind| self.line_kinds.contains(kind));
        if let Some(line) = self.lines.iter().find(named) {
            return Err(format!("the client shows too much: {line}"));
        }
        match self.frames.iter().find(|frame| self.counts(frame)) {
            Some(frame) => Err(format!("the client sends what the scene does not have: {frame}")),
            None => Ok(()),
        }
    }

    async fn connects(&mut self) -> Result<(), String> {
        if !self.arrived_within(self.patience).await? {
            return Err(format!("the client does not connect within {:?}", self.patience));
        }
        self.on = self.arrived.pop_front();
        self.closed = false;
        self.frames.clear();
        Ok(())
    }

    async fn arrived_within(&mut self, time: Duration) -> Result<bool, String> {
        let deadline = Instant::now() + time;
        while self.arrived.is_empty() {
            match self.news(deadline, false).await? {
                News::Time => return Ok(false),
                news => self.take(news)?,
            }
        }
        Ok(true)
    }

    async fn says(&mut self, pattern: &Value) -> Result<(), String> {
        let wanted = kind_of(pattern).ok_or("a frame of the client has a name")?;
        let deadline = Instant::now() + self.patience;
        loop {
            while let Some(frame) = self.frames.pop_front() {
                if self.counts(&frame) {
                    let pattern = self.names.fill_known(pattern, now_ms())?;
                    return self
                        .names
                        .matches(&pattern, &frame)
                        .map_err(|why| format!("{why}, in the client's {frame}"));
                }
            }
            if self.closed || self.on.is_none() {
                return Err(format!("the client ends its connection, but {wanted} was to come: {pattern}"));
            }
            match self.news(deadline, false).await? {
                News::Time => {
                    return Err(format!("the client does not send {wanted} within {:?}: {pattern}", self.patience));
                }
                news => self.take(news)?,
            }
            self.answer_by_the_way().await?;
        }
    }

    async fn says_nothing(&mut self, time: Duration) -> Result<(), String> {
        let deadline = Instant::now() + time;
        loop {
            while let Some(frame) = self.frames.pop_front() {
                if self.counts(&frame) {
                    return Err(format!("the client sends {frame}, where nothing was to come"));
                }
            }
            match self.news(deadline, false).await? {
                News::Time => return Ok(()),
                news => self.take(news)?,
            }
            self.answer_by_the_way().await?;
        }
    }

    async fn says_something(&mut self, time: Duration) -> Result<(), String> {
        let (deadline, before) = (Instant::now() + time, self.heard);
        while self.heard == before {
            match self.news(deadline, false).await? {
                News::Time => return Err(format!("the client sends nothing for {time:?}")),
                news => self.take(news)?,
            }
        }
        self.answer_by_the_way().await
    }

    async fn closes(&mut self) -> Result<(), String> {
        let deadline = Instant::now() + self.patience;
        while !self.closed && self.on.is_some() {
            match self.news(deadline, false).await? {
                News::Time => return Err(format!("the client does not end its connection within {:?}", self.patience)),
                news => self.take(news)?,
            }
        }
        self.on = None;
        Ok(())
    }

    /// True if the scene looks at frames of this kind.
    fn counts(&self, frame: &Value) -> bool {
        let Some(kind) = kind_of(frame) else { return true };
        !BY_THE_WAY.contains(&kind.as_str()) || self.frame_kinds.contains(&kind)
    }

    /// Answers what the scene leaves to the service.
    async fn answer_by_the_way(&mut self) -> Result<(), String> {
        let named = &self.frame_kinds;
        let passed_over = |kind: &String| BY_THE_WAY.contains(&kind.as_str()) && !named.contains(kind);
        let kinds: Vec<String> = self.frames.iter().filter_map(kind_of).filter(passed_over).collect();
        self.frames.retain(|frame| kind_of(frame).is_none_or(|kind| !passed_over(&kind)));
        for kind in kinds {
            match kind.as_str() {
                "ping" => self.send(&[json!({"pong": {}})], false).await?,
                "fetch" => self.send(&[json!({"page": {"complete": true}})], false).await?,
                _ => {}
            }
        }
        Ok(())
    }

    fn make(&mut self, frame: &Value, later: bool) -> Result<Outgoing, String> {
        let mut filled = self.names.fill(frame, now_ms())?;
        self.world.complete(&mut filled, now_ms());
        let made = build(&filled, later).map_err(|why| format!("the scene is wrong: {why}"))?;
        self.note(format_args!("server  {}", made.json));
        Ok(made)
    }

    async fn send(&mut self, frames: &[Value], later: bool) -> Result<(), String> {
        let made = frames.iter().map(|frame| self.make(frame, later)).collect::<Result<Vec<_>, _>>()?;
        // The time before they go counts for what comes not too early behind them.
        let now = Instant::now();
        made.iter().for_each(|made| self.rules.told(&made.frame, now));
        let carrier = self.on.as_mut().ok_or("there is no connection")?;
        carrier.send(&made).await.map_err(|error| format!("the client has ended its connection: {error}"))?;
        let bye = made.iter().find_map(|made| match &made.frame.body {
            Some(Body::Bye(bye)) => Some((Code::try_from(bye.code).unwrap_or_default(), bye.reason.clone())),
            _ => None,
        });
        if let (Some((code, reason)), Some(carrier)) = (bye, self.on.take_if(|_| made.iter().any(is_bye))) {
            carrier.close(code, &reason).await;
        }
        Ok(())
    }

    async fn http(&mut self, step: &HttpStep) -> Result<(), String> {
        let deadline = Instant::now() + self.patience;
        let wanted = format!("GET {}", step.get);
        while self.asked.is_empty() {
            match self.news(deadline, false).await? {
                News::Time => return Err(format!("the client does not ask for {wanted} within {:?}", self.patience)),
                news => self.take(news)?,
            }
            self.answer_by_the_way().await?;
        }
        let Some(ask) = self.asked.pop_front() else { return Ok(()) };
        if ask.what != wanted {
            return Err(format!("the client asks for {}, not {wanted}", ask.what));
        }
        ask.answer(step.status, &step.body).await.map_err(|error| format!("the client takes no answer: {error}"))
    }
}

fn is_bye(made: &Outgoing) -> bool {
    matches!(made.frame.body, Some(Body::Bye(_)))
}

/// The name of a frame.
fn kind_of(frame: &Value) -> Option<String> {
    frame.as_object().and_then(|frame| frame.keys().next()).cloned()
}
