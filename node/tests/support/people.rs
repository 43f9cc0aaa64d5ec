//! People with accounts: an operator makes the accounts by the command line, and clients sign in.

use std::{
    io::Write as _,
    path::Path,
    process::{Command, Output, Stdio},
    sync::OnceLock,
    time::{Duration, Instant},
};

use carillon_client::{Address, ConnectOptions, Connection, Credential, SignInError, sign_in};
use carillon_proto::pb::client::{
    Accepted, Code, Content, Direction, Fetch, Page, Recipient, Send, SignIn, SignedIn, Text, Timeline,
    client_frame::Body, content, recipient, server_frame, timeline,
};

use super::service::{CLUSTER_SECRET, Carrier, Service};

pub const PATIENCE: Duration = Duration::from_secs(20);

/// Runs a command of the command line against a service. The password, if one is needed, comes from `stdin`.
pub fn carillon(service: &Service, args: &[&str], stdin: &str) -> Output {
    command(args, &service.data(), &service.router().to_string(), stdin)
}

pub fn command(args: &[&str], data: &Path, router: &str, stdin: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_carillon"));
    command.args(["--set", &format!("cluster.secret={CLUSTER_SECRET}"), "--data-dir"]).arg(data).args(args);
    command.args(["--router", router]);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    child.stdin.take().expect("piped").write_all(stdin.as_bytes()).expect("written");
    child.wait_with_output().expect("it ends")
}

/// Runs a command that must succeed. Returns what it printed.
pub fn done(service: &Service, args: &[&str], stdin: &str) -> String {
    let output = carillon(service, args, stdin);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{args:?}: {said}");
    String::from_utf8(output.stdout).expect("text")
}

/// Runs a command that must fail. Returns its error output.
pub fn failed(service: &Service, args: &[&str]) -> String {
    let output = carillon(service, args, "");
    assert_eq!(output.status.code(), Some(1), "{args:?}: {}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8(output.stderr).expect("text")
}

/// A signed-in client that sends and receives single frames.
pub struct Device {
    connection: Connection,
    pub user: String,
    pub signed_in: SignedIn,
}

pub async fn enter(
    address: &Address,
    user: &str,
    device: &str,
    credential: &Credential,
) -> Result<Device, SignInError> {
    let request = SignIn { user: user.to_owned(), device: device.to_owned(), ..SignIn::default() };
    enter_with(address, request, credential).await
}

pub async fn enter_with(address: &Address, request: SignIn, credential: &Credential) -> Result<Device, SignInError> {
    let mut connection = Connection::connect(address, &ConnectOptions::default()).await.expect("connects");
    let user = request.user.clone();
    let signed_in = sign_in(&mut connection, request, credential).await?;
    Ok(Device { connection, user, signed_in })
}

/// The service that these tests share. Its leeway is 0, because one machine has one clock.
pub fn shared() -> &'static Service {
    static SHARED: OnceLock<Service> = OnceLock::new();
    SHARED.get_or_init(|| Service::start("gateway.jwt.leeway_s = 0"))
}

/// Signs in, and tries again until a new token counts for an account that was just made again.
pub async fn with_new_token(service: &Service, user: &str) -> Device {
    let until = Instant::now() + PATIENCE;
    loop {
        let token = Credential::Token(service.token(user));
        match enter(&service.address(Carrier::Tcp), user, "d", &token).await {
            Ok(device) => return device,
            Err(error) => assert!(Instant::now() < until, "new tokens are refused for ever: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

pub async fn with_token(service: &Service, user: &str) -> Device {
    let token = Credential::Token(service.token(user));
    enter(&service.address(Carrier::Tcp), user, "d", &token).await.expect("signs in")
}

/// The code with which a sign-in was refused.
pub fn code_of(result: Result<Device, SignInError>) -> Code {
    match result {
        Err(SignInError::Bye(bye)) => bye.code(),
        Err(other) => panic!("refused otherwise: {other}"),
        Ok(_) => panic!("signed in"),
    }
}

impl Device {
    /// The next frame; `None` at the end of the connection.
    pub async fn frame(&mut self) -> Option<server_frame::Body> {
        let frame = tokio::time::timeout(PATIENCE, self.connection.next_frame()).await.expect("in time");
        frame.ok().flatten().and_then(|frame| frame.body)
    }

    /// The next frame, whenever it comes; `None` at the end of the connection. Cancel-safe.
    pub async fn said(&mut self) -> Option<server_frame::Body> {
        self.connection.next_frame().await.ok().flatten().and_then(|frame| frame.body)
    }

    /// Sends a frame; false if the connection is over.
    pub async fn say(&mut self, body: Body) -> bool {
        self.connection.send_frame(body).await.is_ok()
    }

    /// Sends a text, and waits for the answer.
    pub async fn send(&mut self, to: &str, id: &str, text: &str) -> Result<Accepted, Code> {
        let content = Content { body: Some(content::Body::Text(Text { body: text.to_owned() })), ..Default::default() };
        let to = Recipient { to: Some(recipient::To::User(to.to_owned())) };
        let send = Send {
            client_id: id.to_owned(),
            to: Some(to),
            content: Some(content),
            after: String::new(),
            expires_after_ms: 0,
        };
        assert!(self.say(Body::Send(send)).await, "the connection is over");
        loop {
            match self.frame().await.expect("an answer") {
                server_frame::Body::Accepted(accepted) if accepted.client_id == id => return Ok(accepted),
                server_frame::Body::Refused(refused) => return Err(refused.code()),
                server_frame::Body::Bye(bye) => return Err(bye.code()),
                _ => {}
            }
        }
    }

    /// Waits until this many texts are delivered.
    pub async fn delivered(&mut self, count: usize) -> Vec<String> {
        let mut texts = Vec::new();
        while texts.len() < count {
            if let server_frame::Body::Deliver(deliver) = self.frame().await.expect("a frame") {
                match deliver.envelope.and_then(|envelope| envelope.content).and_then(|content| content.body) {
                    Some(content::Body::Text(text)) => texts.push(text.body),
                    other => panic!("no text: {other:?}"),
                }
            }
        }
        texts
    }

    /// The whole inbox.
    pub async fn history(&mut self) -> Page {
        let timeline = Timeline { owner: Some(timeline::Owner::Inbox(self.user.clone())) };
        let fetch =
            Fetch { request: 1, timeline: Some(timeline), direction: Direction::Forward.into(), ..Fetch::default() };
        assert!(self.say(Body::Fetch(fetch)).await, "the connection is over");
        loop {
            match self.frame().await.expect("an answer") {
                server_frame::Body::Page(page) => return page,
                server_frame::Body::Deliver(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// Waits for the Bye that ends the connection. Returns its code, and whether the client may reconnect.
    pub async fn bye(&mut self) -> (Code, bool) {
        loop {
            match self.frame().await {
                Some(server_frame::Body::Bye(bye)) => return (bye.code(), bye.reconnect),
                Some(_) => {}
                None => panic!("the connection ended without a Bye"),
            }
        }
    }
}
