//! Streams of XMPP clients.

use std::sync::{Arc, LazyLock};

use carillon_proto::{credentials::decoy, pb::client::Limits};

use super::{NOW_MS, START};
use crate::{
    config::{GatewayConfig, XmppConfig, XmppTls},
    conversation::{Ask, Now, Rules, Tell, Welcome},
    dialect::xmpp::{Heard, Seed, Service, TcpDialog},
};

static SERVICES: LazyLock<[Arc<Service>; 3]> = LazyLock::new(|| {
    [XmppTls::Required, XmppTls::Optional, XmppTls::Outside].map(|tls| {
        let xmpp = XmppConfig { enabled: true, domain: "a.b".to_owned(), tls, ..XmppConfig::default() };
        let config = GatewayConfig { xmpp, ..GatewayConfig::default() };
        let rules = Arc::new(Rules::new(&config, [1; 32]).expect("no keys to load"));
        Arc::new(Service::new(&config.xmpp, rules).expect("a domain"))
    })
});

/// A client's bytes from its first one on. The first two bytes say where TLS ends, whether passwords are right, and in which pieces the rest
/// comes, which makes no difference.
pub fn xmpp_dialog(bytes: &[u8]) {
    let [how, piece, text @ ..] = bytes else { return };
    let whole = run(*how, &mut std::iter::once(text));
    // What is behind `<starttls/>` is refused if it is there at that time, and belongs to TLS later.
    if !whole.0.contains(&Said::StartTls) && !whole.1.contains("xmpp-tls") {
        let pieces = run(*how, &mut text.chunks(usize::from(*piece).max(1)));
        assert_eq!(whole, pieces);
    }
}

/// What was heard, but for signs of life.
#[derive(Debug, PartialEq)]
enum Said {
    Ask(Ask),
    StartTls,
    End,
}

fn run(how: u8, pieces: &mut dyn Iterator<Item = &[u8]>) -> (Vec<Said>, String) {
    let now = Now { instant: *START, unix_ms: NOW_MS };
    let service = Arc::clone(&SERVICES[usize::from(how) % SERVICES.len()]);
    let mut dialog = TcpDialog::new(service, Seed::new([7; 32]), now);
    let (mut said, mut unheard) = (Vec::new(), Vec::new());
    for piece in pieces {
        unheard.extend_from_slice(piece);
        loop {
            let mut rest = &unheard[..];
            let heard = dialog.hear(&mut rest, now);
            let taken = unheard.len() - rest.len();
            unheard.drain(..taken);
            let heard = match heard {
                Some(heard) => Some(heard),
                None if dialog.take_check().is_some() => dialog.checked(how >= 128),
                None => break,
            };
            said.extend(heard.and_then(|heard| told(&mut dialog, heard)));
        }
    }
    (said, String::from_utf8(dialog.out().to_vec()).expect("text"))
}

/// Answers as a conversation does.
fn told(dialog: &mut TcpDialog, heard: Heard) -> Option<Said> {
    let ask = match heard {
        Heard::Ask(ask) => ask,
        Heard::Alive => return None,
        Heard::StartTls => return Some(Said::StartTls),
        Heard::Fault(..) | Heard::Closed => return Some(Said::End),
    };
    match &ask {
        Ask::LookUp(user) => dialog.tell(Tell::Keys(Box::new(decoy(&[1; 32], user.as_str())))),
        Ask::SignIn(ask) => {
            dialog.signed_in();
            dialog.tell(Tell::SignedIn(Box::new(Welcome {
                handle: String::new(),
                user: "alice".to_owned(),
                device: ask.device.clone(),
                verdict: bytes::Bytes::new(),
                limits: Limits::default(),
                heartbeat_ms: 1,
                timelines: Vec::new(),
                expires_ms: 0,
                features: Vec::new(),
                ticket: bytes::Bytes::new(),
            })));
        }
        Ask::Proven | Ask::NotProven => {}
        other => panic!("nothing else is asked: {other:?}"),
    }
    Some(Said::Ask(ask))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seeds_reach_what_they_are_for() {
        let seed = |name: &str| {
            let path = format!("{}/../fuzz/seeds/xmpp_dialog/{name}", env!("CARGO_MANIFEST_DIR"));
            std::fs::read(path).expect("a seed")
        };
        let said = |seed: &[u8]| {
            xmpp_dialog(seed);
            run(seed[0], &mut std::iter::once(&seed[2..])).0
        };
        let plain = said(&seed("plain"));
        assert!(matches!(
            plain[..],
            [Said::Ask(Ask::LookUp(_)), Said::Ask(Ask::Proven), Said::Ask(Ask::SignIn(_)), Said::End]
        ));
        assert!(matches!(said(&seed("scram"))[..], [Said::Ask(Ask::LookUp(_)), ..]));
        assert_eq!(said(&seed("starttls")), [Said::StartTls]);
    }
}
