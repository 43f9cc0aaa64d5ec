//! Files, and messages that are sent on.

use std::path::PathBuf;

use carillon_proto::pb::client::Media;

use super::*;

fn cat() -> Content {
    let media = Media { media_type: "image/png".to_owned(), name: "cat.png".to_owned(), ..Media::default() };
    Content { body: Some(Body::Image(media)), ..Content::default() }
}

#[test]
fn a_file_is_sent_when_it_is_uploaded() {
    let mut play = Play::connected(Some("bob"));
    let (with, client_id) = (With::User(user("bob")), "t-1".to_owned());
    let (path, caption) = (PathBuf::from("/home/a/cat.png"), "look".to_owned());
    let upload = Act::Upload { with: with.clone(), client_id: client_id.clone(), path, caption };
    assert_eq!(play.sends("/file /home/a/cat.png | look"), [upload]);
    assert!(play.screen().0.contains("[sending /home/a/cat.png] look"), "{}", play.screen().0);
    let acts = play.answered(Answer::Uploaded(with.clone(), client_id.clone(), Box::new(cat())));
    assert_eq!(acts, [Act::Send { with: with.clone(), client_id, content: cat(), expires_after_ms: 0 }]);
    assert!(play.screen().0.contains("alice: [image/png cat.png"), "{}", play.screen().0);

    play.sends("/file nowhere.png");
    play.answered(Answer::Refused(with, "t-2".to_owned(), "nowhere.png: no such file".to_owned()));
    assert!(play.screen().0.contains("✗ nowhere.png: no such file"), "{}", play.screen().0);
}

#[test]
fn the_last_file_is_saved_and_another_where_it_is_chosen() {
    let mut play = Play::connected(Some("bob"));
    assert_eq!(play.sends("/save"), []);
    assert!(play.screen().0.contains("no message here has a file"));
    play.model.line.clear();
    for (seq, content) in [(3, cat()), (4, cat()), (5, carillon_client::Client::text("nice?"))] {
        let envelope = Envelope { content: Some(content), ..envelope(seq, "bob", "alice", "") };
        play.hears(Event::Delivered { timeline: inbox(), position: at(seq), envelope });
    }
    let save = |seq, path: Option<&str>| Act::Save { timeline: inbox(), seq, path: path.map(PathBuf::from) };
    assert_eq!(play.sends("/save"), [save(4, None)]);
    for _ in 0..3 {
        play.model.handle(NOW_MS, Input::Key(KeyEvent::new(KeyCode::Up, KeyModifiers::ALT)));
    }
    assert_eq!(play.sends("/save dog.png"), [save(3, Some("dog.png"))]);
}

#[test]
fn the_last_message_of_another_is_sent_on() {
    let mut play = Play::connected(Some("bob"));
    play.delivered(3, "bob", "alice", "tea at five");
    let to = With::User(user("carol"));
    assert_eq!(play.sends("/forward carol"), [Act::Forward { timeline: inbox(), seq: 3, to }]);
    play.answered(Answer::Told("sent on to carol".to_owned()));
    assert!(play.screen().0.contains("sent on to carol"));
}
