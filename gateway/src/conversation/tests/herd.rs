//! Many clients sign in at once.

use super::*;
use crate::herd::Herd;

#[test]
fn above_the_rate_of_sign_ins_a_client_is_told_its_time_and_gets_in_then() {
    let started = Play::new().now;
    let rules = Arc::new(Rules { herd: Herd::new(1, 2), ..rules() });
    let begins = |user: &str, after: Duration| {
        let mut play = Play::with(Arc::clone(&rules));
        play.now = started;
        play.wait(after);
        play.says(token_sign_in(user, 3600));
        play
    };
    let opens = |play: &Play| matches!(&play.asked[..], [(Tag::Open, Op::OpenSession(_))]);
    assert!(opens(&begins("alice", Duration::ZERO)));
    let mut second = begins("bob", Duration::ZERO);
    assert!(second.asked.is_empty(), "it has cost the routers nothing");
    let bye = second.bye();
    assert_eq!((bye.code(), bye.reconnect), (Code::Overloaded, true));
    let wait = Duration::from_millis(bye.reconnect_after_ms.into());
    assert!((2000..=2010).contains(&wait.as_millis()), "{wait:?}");
    assert!(opens(&begins("bob", wait)));
    assert!(!opens(&begins("carol", wait)));
}
