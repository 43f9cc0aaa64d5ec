//! `carillon chat` in a terminal, as somebody who sits before it: keys go in, and a terminal's screen is read.

mod support;

use std::{
    fs::File,
    io::{Read as _, Write as _},
    process::{Child, Command},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use rustix::{
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{Winsize, tcsetwinsize},
};
use support::{
    node::until,
    people::Device,
    service::{Carrier, Service},
};

const PATIENCE: Duration = Duration::from_secs(30);

/// The program in a terminal.
struct Terminal {
    keys: File,
    screen: Arc<parking_lot::Mutex<vt100::Parser>>,
    program: Child,
}

impl Terminal {
    /// Of 80 columns and 20 rows.
    fn chat(service: &Service, user: &str, with: &[&str]) -> Self {
        Self::sized(service, user, with, (20, 80))
    }

    fn sized(service: &Service, user: &str, with: &[&str], (rows, columns): (u16, u16)) -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
        grantpt(&master).and_then(|()| unlockpt(&master)).expect("may be used");
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&master, size).expect("has a size");
        let name = ptsname(&master, Vec::new()).expect("has a name").into_string().expect("text");
        let open = || File::options().read(true).write(true).open(&name).expect("opens");
        let mut command = Command::new(env!("CARGO_BIN_EXE_carillon"));
        command.args(["chat", user]).args(with).args(["--url", &service.address(Carrier::Tcp).to_string()]);
        command.env("CARILLON_TOKEN", service.token(user)).env("TERM", "xterm-256color");
        let program = command.stdin(open()).stdout(open()).stderr(open()).spawn().expect("starts");
        let keys = File::from(master);
        let mut shown = keys.try_clone().expect("another one");
        let screen = Arc::new(parking_lot::Mutex::new(vt100::Parser::new(rows, columns, 0)));
        let to = Arc::clone(&screen);
        // Ends with the terminal.
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = shown.read(&mut bytes) {
                to.lock().process(&bytes[..count]);
            }
        });
        Self { keys, screen, program }
    }

    fn types(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).expect("typed");
    }

    fn screen(&self) -> String {
        self.screen.lock().screen().contents()
    }

    fn shows(&self, what: &str) {
        let end = Instant::now() + PATIENCE;
        while !self.screen().contains(what) {
            assert!(Instant::now() < end, "waited for {what:?} on the screen:\n{}", self.screen());
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn hides(&self, what: &str) {
        let end = Instant::now() + PATIENCE;
        while self.screen().contains(what) {
            assert!(Instant::now() < end, "waited until {what:?} is gone from the screen:\n{}", self.screen());
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn ends(mut self) {
        let mut ended = None;
        until("the end of the program", PATIENCE, || {
            ended = self.program.try_wait().expect("waits");
            ended.is_some()
        });
        assert!(ended.expect("ended").success(), "{}", self.screen());
        // The screen of before, without what was drawn.
        assert!(!self.screen.lock().screen().alternate_screen());
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.program.kill();
        let _ = self.program.wait();
    }
}

async fn enter(service: &Service, user: &str) -> Device {
    support::people::with_token(service, user).await
}

#[test]
fn two_people_talk_on_their_screens() {
    let service = Service::shared();
    // Whoever has an account can be written to.
    service.block_on(async {
        for user in ["ada", "bela", "cleo"] {
            enter(service, user).await;
        }
    });
    let mut ada = Terminal::chat(service, "ada", &["bela"]);
    ada.shows("ada at");
    ada.types("hello bela\r");
    ada.shows("ada: hello bela ✓");
    // Earlier messages are read from the history.
    let mut bela = Terminal::chat(service, "bela", &["ada"]);
    bela.shows("ada: hello bela");
    ada.shows("hello bela ✓✓ read");
    bela.types("hello ada\r");
    ada.shows("bela: hello ada");
    bela.shows("hello ada ✓✓ read");

    // Another conversation, which is in the list until it is opened.
    service.block_on(async {
        let mut cleo = enter(service, "cleo").await;
        cleo.send("ada", "1", "lunch?").await.expect("accepted");
    });
    ada.shows("cleo                 1");
    ada.types("/with cleo\r");
    ada.shows("cleo: lunch?");
    ada.types("not sent yet\t");
    ada.shows("cleo…");
    ada.types("/quit\r");
    ada.ends();
    // A draft is on the user's next screen, too.
    let mut again = Terminal::chat(service, "ada", &["cleo"]);
    again.shows("not sent yet");
    again.types("\u{3}");
    again.ends();
    bela.types("\u{3}");
    bela.ends();
}

#[test]
fn a_file_goes_from_screen_to_screen() {
    let service = Service::shared();
    service.block_on(async {
        for user in ["dora", "emil"] {
            enter(service, user).await;
        }
    });
    let folder = tempfile::tempdir().expect("folder");
    let (sent, saved) = (folder.path().join("note.txt"), folder.path().join("saved.txt"));
    std::fs::write(&sent, "meet me at noon").expect("writes");
    let media = format!("http://{}", service.ws());
    let mut dora = Terminal::chat(service, "dora", &["emil", "--media-url", &media]);
    let mut emil = Terminal::chat(service, "emil", &["dora", "--media-url", &media]);
    for screen in [&dora, &emil] {
        screen.shows(" at tcp://");
    }
    dora.types(&format!("/file {} | the plan\r", sent.display()));
    emil.shows("bytes] the plan");
    emil.types(&format!("/save {}\r", saved.display()));
    emil.shows(": 15 bytes");
    assert_eq!(std::fs::read_to_string(&saved).expect("reads"), "meet me at noon");
    emil.types("/file /nowhere/at/all\r");
    emil.shows("✗ /nowhere/at/all: No such file");
    for mut screen in [dora, emil] {
        screen.types("\u{3}");
        screen.ends();
    }
}

#[test]
fn nothing_stays_of_characters_whose_parts_a_terminal_shows_one_after_another() {
    let service = Service::shared();
    service.block_on(async {
        for user in ["gus", "gwen"] {
            enter(service, user).await;
        }
    });
    let mut gus = Terminal::chat(service, "gus", &["gwen"]);
    gus.shows("gus at");
    let (flag, family) = ("🇩🇪", "👨\u{200d}👩\u{200d}👧");
    gus.types(&format!("{flag}{family}"));
    gus.shows("🇩");
    gus.shows("👨");
    gus.types("\u{15}");
    for part in ["🇩", "🇪", "👨", "👩", "👧"] {
        gus.hides(part);
    }
    gus.types("\u{3}");
    gus.ends();
}

#[test]
fn a_small_window_is_enough() {
    let service = Service::shared();
    service.block_on(async {
        for user in ["fay", "gus"] {
            enter(service, user).await;
        }
    });
    let mut fay = Terminal::sized(service, "fay", &["gus"], (12, 40));
    fay.shows("fay at");
    fay.types("/help\r");
    fay.shows("/with USER");
    // The key End.
    fay.types("\u{1b}[F");
    fay.shows("the end");
    fay.types("\u{1b}");
    fay.hides("the end");
    // Ctrl+U, and a long word by bracketed paste, with the end of a line in it.
    fay.types("never sent\u{15}");
    fay.types(&format!("\u{1b}[200~BEGIN{}END\nsecond\n\u{1b}[201~", "x".repeat(70)));
    fay.shows("second");
    assert!(fay.screen().contains("END"), "{}", fay.screen());
    fay.types("\r");
    fay.shows("✓");
    for number in 0..20 {
        fay.types(&format!("number {number}.\r"));
    }
    fay.shows("number 19. ✓");
    fay.types("\u{1b}[5~\u{1b}[5~");
    fay.shows("lines below: PageDown");
    fay.hides("number 19.");
    assert!(!fay.screen().contains("never sent"), "{}", fay.screen());
    fay.types("\u{1b}[6~\u{1b}[6~\u{1b}[6~");
    fay.shows("number 19.");
    fay.types("/mut\t1\r");
    fay.types("/repyl x\r");
    // In a second line.
    fay.shows("/reply?");
    fay.types("\u{3}");
    fay.ends();
}

#[test]
fn the_screen_is_drawn_anew_at_once_where_the_terminal_answers_no_question() {
    let service = Service::shared();
    service.block_on(async {
        for user in ["hana", "ivo"] {
            enter(service, user).await;
        }
    });
    let mut hana = Terminal::chat(service, "hana", &["ivo"]);
    hana.shows("hana at");
    hana.types("hello ivo\r");
    hana.shows("hello ivo ✓");
    // Another program has written over it.
    hana.screen.lock().process("\u{1b}[2J\u{1b}[Hkernel: out of paper".as_bytes());
    hana.types("\u{c}");
    hana.shows("hello ivo ✓");
    hana.hides("out of paper");
    hana.types("bye\r");
    hana.shows("hana: bye");
    hana.types("\u{3}");
    hana.ends();
}
