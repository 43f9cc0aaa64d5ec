//! Streams of XMPP clients.

use std::sync::{Arc, LazyLock};

use carillon_proto::credentials::decoy;

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

/// The bytes of a client. The first two bytes choose where TLS ends, whether passwords are right, and the pieces in which the rest comes: the pieces
/// make no difference.
pub fn xmpp_dialog(bytes: &[u8]) {
    let [how, piece, text @ ..] = bytes else { return };
    let whole = run(*how, &mut std::iter::once(text));
    // Bytes behind `<starttls/>` are refused if they are there at that time, and belong to TLS if they come later.
    if !whole.0.contains(&Said::StartTls) && !whole.1.contains("xmpp-tls") {
        let pieces = run(*how, &mut text.chunks(usize::from(*piece).max(1)));
        assert_eq!(whole, pieces);
    }
}

/// An event that was heard, except for signs of life.
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
            let Some(heard) = heard else { break };
            let mut next = Some(heard);
            while let Some(heard) = next.take() {
                let (one, is_checked) = told(&mut dialog, heard);
                said.extend(one);
                next = if is_checked { dialog.checked(how >= 128) } else { None };
            }
        }
    }
    (said, String::from_utf8(dialog.out().to_vec()).expect("text"))
}

/// Answers as a conversation does. True: a password is to be compared.
fn told(dialog: &mut TcpDialog, heard: Heard) -> (Option<Said>, bool) {
    let ask = match heard {
        Heard::Ask(ask) => ask,
        Heard::Alive => return (None, false),
        Heard::StartTls => return (Some(Said::StartTls), false),
        Heard::Fault(..) | Heard::Closed => return (Some(Said::End), false),
    };
    let check = match &ask {
        Ask::LookUp(user) => dialog.tell(Tell::Keys(Box::new(decoy(&[1; 32], user.as_str())))),
        Ask::SignIn(ask) => {
            dialog.signed_in();
            dialog.tell(Tell::SignedIn(Box::new(Welcome::simple("alice", &ask.device))))
        }
        Ask::Proven | Ask::NotProven => None,
        other => panic!("nothing else is asked: {other:?}"),
    };
    (Some(Said::Ask(ask)), check.is_some())
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
