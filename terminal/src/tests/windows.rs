//! Small windows, long texts, and keys that are known from elsewhere.

use super::*;

impl Play {
    /// Connected with bob, in a window of this size.
    fn sized(columns: u16, rows: u16) -> Self {
        let mut play = Self::connected(Some("bob"));
        play.terminal = Terminal::new(TestBackend::new(columns, rows)).expect("a terminal");
        play
    }

    fn presses_with(&mut self, modifiers: KeyModifiers, code: KeyCode) -> Vec<Act> {
        self.model.handle(NOW_MS, Input::Key(KeyEvent::new(code, modifiers)));
        self.acts()
    }

    fn pastes(&mut self, text: &str) -> Vec<Act> {
        self.model.handle(NOW_MS, Input::Paste(text.to_owned()));
        self.acts()
    }

    /// The screen as one line, without spaces at the ends of its lines.
    fn flat(&mut self) -> String {
        self.screen().0.lines().map(str::trim).collect::<Vec<_>>().join(" ")
    }
}

#[test]
fn all_of_the_help_can_be_read_in_a_small_window() {
    for (columns, rows) in [(80, 24), (40, 12), (30, 8)] {
        let mut play = Play::sized(columns, rows);
        play.types("/help");
        assert!(play.screen().0.contains("PageDown"), "{}", play.screen().0);
        let mut seen = String::new();
        for _ in 0..200 {
            seen += &play.screen().0;
            play.presses(KeyCode::Down);
        }
        for word in ["/with", "/expire", "/report", "Alt+Enter", "Ctrl+C", "moderators", "the end"] {
            assert!(seen.contains(word), "{word} at {columns} columns");
        }
        assert!(play.screen().0.contains("the end"), "{}", play.screen().0);
        play.presses(KeyCode::Home);
        assert!(play.screen().0.contains("/with USER"), "{}", play.screen().0);
        // Whoever goes on typing has read enough.
        play.presses(KeyCode::Char('h'));
        assert_eq!((play.model.help, play.model.line.lines()), (None, &["h".to_owned()][..]));
    }
}

#[test]
fn keys_of_a_shell_edit_the_line() {
    let control = KeyModifiers::CONTROL;
    let mut play = Play::sized(80, 24);
    play.pastes("one two three");
    play.presses_with(control, KeyCode::Char('w'));
    assert_eq!(play.model.line.lines(), ["one two "]);
    play.presses_with(control, KeyCode::Char('a'));
    play.presses(KeyCode::Char('x'));
    play.presses_with(control, KeyCode::Char('e'));
    play.presses(KeyCode::Char('y'));
    assert_eq!(play.model.line.lines(), ["xone two y"]);
    play.presses_with(KeyModifiers::ALT, KeyCode::Char('b'));
    play.presses_with(control, KeyCode::Char('u'));
    assert_eq!(play.model.line.lines(), ["y"]);
    play.presses_with(control, KeyCode::Char('y'));
    assert_eq!(play.model.line.lines(), ["xone two y"]);
    play.presses_with(control, KeyCode::Char('k'));
    assert_eq!(play.model.line.lines(), ["xone two "]);
    assert_eq!(play.presses_with(control, KeyCode::Char('l')), [Act::Redraw]);
}

#[test]
fn tab_completes_a_command_and_says_what_is_possible() {
    let mut play = Play::sized(80, 24);
    play.pastes("/mu");
    play.presses(KeyCode::Tab);
    assert_eq!(play.model.line.lines(), ["/mute "]);
    play.model.line.clear();
    play.pastes("/rep");
    play.presses(KeyCode::Tab);
    assert!(play.screen().0.contains("/reply /report"), "{}", play.screen().0);
    assert_eq!(play.types("ost"), []);
    assert!(play.screen().0.contains("/repost is no command: did you mean /report?"), "{}", play.screen().0);
}

#[test]
fn what_is_typed_stays_in_sight_however_long_it_is() {
    let mut play = Play::sized(40, 12);
    play.pastes(&format!("BEGIN{}END", "x".repeat(90)));
    let screen = play.screen().0;
    assert!(screen.contains("BEGIN") && screen.contains("END"), "{screen}");
    play.model.line.clear();
    play.pastes(&format!("{}終", "語".repeat(50)));
    let screen = play.screen().0;
    assert!(screen.matches('語').count() == 50 && screen.contains('終'), "{screen}");
}

#[test]
fn lines_that_are_pasted_are_one_message() {
    let mut play = Play::sized(80, 24);
    assert!(play.pastes("one\r\ntwo\n\n").iter().all(|act| matches!(act, Act::Writing(_))));
    assert_eq!(play.model.line.lines(), ["one", "two"]);
    // From a terminal without bracketed paste.
    play.presses_with(KeyModifiers::CONTROL, KeyCode::Char('j'));
    let acts = play.sends("three");
    let said = carillon_client::Client::text("one\ntwo\nthree");
    assert!(matches!(&acts[..], [Act::Send { content, .. }] if *content == said), "{acts:?}");
    let screen = play.screen().0;
    let lines: Vec<_> = screen.lines().filter_map(|line| line.split('│').nth(1)).map(str::trim).collect();
    assert!(lines.windows(3).any(|lines| lines[0].ends_with("one") && lines[1..] == ["two", "three …"]), "{screen}");
    play.pastes(&"é".repeat(40_000));
    assert!(play.flat().contains("too long: its first 65536 bytes"), "{}", play.flat());
}

#[test]
fn messages_fit_into_a_narrow_window() {
    let mut play = Play::sized(40, 12);
    play.delivered(3, "bob", "alice", &"日本語".repeat(20));
    play.delivered(4, "bob", "alice", &format!("👨‍👩‍👧 ok {}end", "a".repeat(50)));
    let screen = play.screen().0;
    assert_eq!((screen.matches('日').count(), screen.matches('語').count()), (20, 20), "{screen}");
    assert!(screen.contains("👨‍👩‍👧") && screen.matches('a').count() >= 50 && screen.contains("end"), "{screen}");
}

#[test]
fn a_long_refusal_and_a_long_notice_can_be_read() {
    let mut play = Play::sized(40, 12);
    play.sends("hello");
    let why = "slow mode: one message in 10 minutes, and many more words than fit into one line";
    play.answered(Answer::Refused(With::User(user("bob")), "t-1".to_owned(), why.to_owned()));
    let notice = "1 of 3 others have read the last message: bela; not yet: cleo, dora";
    play.answered(Answer::Told(notice.to_owned()));
    let flat = play.flat();
    assert!(flat.contains(why) && flat.contains(notice), "{}", play.screen().0);
    play.presses(KeyCode::Esc);
    assert!(!play.flat().contains("not yet"), "{}", play.screen().0);
}

#[test]
fn whoever_reads_further_up_is_not_moved_and_hears_of_what_is_new() {
    let mut play = Play::sized(40, 12);
    for seq in 3..40 {
        play.delivered(seq, "bob", "alice", &format!("number {seq}"));
    }
    play.screen();
    play.presses(KeyCode::PageUp);
    let before = play.screen().0;
    assert!(before.contains("lines below: PageDown") && !before.contains("number 39"), "{before}");
    let read = |screen: &str| screen.lines().skip(1).take(5).map(str::to_owned).collect::<Vec<_>>();
    play.delivered(40, "bob", "alice", "this one takes two lines of a window as narrow as this");
    play.delivered(41, "alice", "bob", "from another device");
    let after = play.screen().0;
    assert_eq!(read(&after), read(&before));
    assert!(after.contains("lines below, 1 new: PageDown"), "{after}");
    play.presses(KeyCode::PageUp);
    play.presses(KeyCode::End);
    let end = play.screen().0;
    assert!(end.contains("from another device") && !end.contains("below"), "{end}");
    play.presses(KeyCode::Home);
    assert!(play.screen().0.contains("number 3"), "{}", play.screen().0);
}

#[test]
fn the_chosen_message_comes_into_sight() {
    let mut play = Play::sized(40, 12);
    for seq in 3..40 {
        play.delivered(seq, "bob", "alice", &format!("number {seq}."));
    }
    for _ in 0..20 {
        play.presses_with(KeyModifiers::ALT, KeyCode::Up);
        play.screen();
    }
    assert_eq!(play.model.chosen, Some(20));
    assert!(play.screen().0.contains("number 20."), "{}", play.screen().0);
    for _ in 0..19 {
        play.presses_with(KeyModifiers::ALT, KeyCode::Down);
        play.screen();
    }
    assert!(play.screen().0.contains("number 39."), "{}", play.screen().0);
}

#[test]
fn a_narrow_window_tells_what_is_unread_elsewhere() {
    let mut play = Play::sized(40, 12);
    play.delivered(3, "carol", "alice", "hi");
    play.delivered(4, "carol", "alice", "there");
    assert!(play.screen().0.contains("carol 2"), "{}", play.screen().0);
    play.delivered(5, "dora", "alice", "hi");
    play.delivered(6, "emil", "alice", "hi");
    assert!(play.screen().0.contains("1 more"), "{}", play.screen().0);
}
