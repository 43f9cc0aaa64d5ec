//! What a change of an account did to its sessions, in words.

use carillon_proto::pb::admin::Ended;

/// The sessions that a change has ended, in words; empty if there are none.
pub(super) fn ended(ended: Option<Ended>) -> String {
    let Ended { closed, open } = ended.unwrap_or_default();
    match (closed, open) {
        (0, 0) => String::new(),
        (closed, 0) => format!(": {} ended", sessions(closed)),
        (0, open) => format!(": {} will end when the gateway that has it reaches a router", sessions(open)),
        (closed, open) => {
            format!(": {} ended, {open} will when the gateway that has it reaches a router", sessions(closed))
        }
    }
}

fn sessions(count: u32) -> String {
    if count == 1 { "1 session".to_owned() } else { format!("{count} sessions") }
}
