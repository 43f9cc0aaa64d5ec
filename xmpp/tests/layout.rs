//! The crate needs no socket, no clock and no random number (docs/adr/0037-xmpp-stream.md).

use std::{fs, path::Path};

fn sources(folder: &Path, found: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(folder).expect("folder") {
        let path = entry.expect("entry").path();
        if path.is_dir() {
            sources(&path, found);
        } else {
            found.push((path.display().to_string(), fs::read_to_string(&path).expect("source")));
        }
    }
}

#[test]
fn the_words_of_xmpp_need_no_socket_no_clock_and_no_random_number() {
    let mut found = Vec::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut found);
    assert!(found.iter().any(|(_, text)| text.contains("pub fn feed")), "these are not the sources");
    for (path, text) in found {
        let code: String = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
        for word in ["tokio", "TcpStream", "Instant", "SystemTime", "rand::", "async fn", "unsafe"] {
            assert!(!code.contains(word), "{path} has {word}");
        }
    }
}
