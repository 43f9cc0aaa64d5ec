//! The register beside a plain list of what was told.

use proptest::prelude::*;

use super::*;

const USERS: usize = 4;
const DEVICES: usize = 3;
const LEASES: u64 = 3;

#[derive(Debug, Clone)]
enum Step {
    Put {
        user: usize,
        device: usize,
        lease: u64,
        connection: u64,
        incarnation: u64,
    },
    /// Announced again on the newest link of its gateway.
    ToldAgain {
        at: usize,
    },
    Remove {
        at: usize,
    },
    EndLease(u64),
    NewLink(u64),
    AnnouncedAll {
        lease: u64,
        ring: u64,
    },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let put = (0..USERS, 0..DEVICES, 1..=LEASES, 1..6u64, 1..3u64).prop_map(
        |(user, device, lease, connection, incarnation)| Step::Put { user, device, lease, connection, incarnation },
    );
    let step = prop_oneof![
        6 => put,
        2 => any::<prop::sample::Index>().prop_map(|at| Step::ToldAgain { at: at.index(64) }),
        2 => any::<prop::sample::Index>().prop_map(|at| Step::Remove { at: at.index(64) }),
        1 => (1..=LEASES).prop_map(Step::EndLease),
        1 => (1..=LEASES).prop_map(Step::NewLink),
        2 => (1..=LEASES, 1..4u64).prop_map(|(lease, ring)| Step::AnnouncedAll { lease, ring }),
    ];
    prop::collection::vec(step, 1..60)
}

#[derive(Default)]
struct Plain {
    /// User, incarnation, session.
    sessions: Vec<(usize, u64, Session)>,
    /// Of each lease that has said so: the link and the ring.
    announced: KeyedMap<u64, (u64, u64)>,
}

fn user(number: usize) -> UserId {
    UserId::new(&format!("user{number}")).expect("valid")
}

proptest! {
    #[test]
    fn the_register_is_what_was_told(steps in steps()) {
        let companions = Companions::default();
        let mut register = Register::new(companions.clone());
        let mut plain = Plain::default();
        let mut links = [1u64; LEASES as usize + 1];
        for step in steps {
            match step {
                Step::Put { user: of, device, lease, connection, incarnation } => {
                    let session = Session {
                        device: format!("d{device}").into(),
                        lease: LeaseId(lease),
                        connection,
                        generation: incarnation,
                        link: links[lease as usize],
                        presence: None,
                        shown: 0,
                    };
                    // A handle is of one session: the same one of another device never was.
                    let handle_taken = plain.sessions.iter().any(|(other, _, known)| {
                        known.has_handle(LeaseId(lease), connection) && (*other, &known.device) != (of, &session.device)
                    });
                    if handle_taken {
                        continue;
                    }
                    register.put(&user(of), incarnation, session.clone());
                    let newest = plain.sessions.iter().filter(|(other, ..)| *other == of).map(|(_, at, _)| *at).max();
                    if newest.is_none_or(|newest| newest <= incarnation) {
                        plain.sessions.retain(|(other, at, known)| {
                            *other != of || (*at == incarnation && known.device != session.device)
                        });
                        plain.sessions.push((of, incarnation, session));
                    }
                }
                Step::ToldAgain { at } => {
                    let count = plain.sessions.len().max(1);
                    if let Some((of, _, known)) = plain.sessions.get_mut(at % count) {
                        known.link = links[known.lease.0 as usize];
                        register.told_again(&user(*of), known);
                    }
                }
                Step::Remove { at } => {
                    if !plain.sessions.is_empty() {
                        let (of, _, known) = plain.sessions.remove(at % plain.sessions.len());
                        register.remove(&user(of), known.lease, known.connection);
                    }
                }
                Step::EndLease(lease) => {
                    register.end_leases(|other| other == LeaseId(lease));
                    plain.sessions.retain(|(_, _, known)| known.lease != LeaseId(lease));
                    plain.announced.remove(&lease);
                }
                Step::NewLink(lease) => links[lease as usize] += 1,
                Step::AnnouncedAll { lease, ring } => {
                    let link = links[lease as usize];
                    register.announced_all(LeaseId(lease), link, ring);
                    plain.sessions.retain(|(_, _, known)| known.lease != LeaseId(lease) || known.link >= link);
                    plain.announced.insert(lease, (link, ring));
                }
            }
            prop_assert_eq!(register.len(), plain.sessions.len());
            for number in 0..USERS {
                let mut count = 0;
                for incarnation in 1..3 {
                    let told: Vec<&Session> = plain
                        .sessions
                        .iter()
                        .filter(|(of, at, _)| (*of, *at) == (number, incarnation))
                        .map(|(_, _, known)| known)
                        .collect();
                    let mut known: Vec<&Session> = register.sessions(&user(number), incarnation).iter().collect();
                    let order = |session: &&Session| session.device.clone();
                    known.sort_by_key(order);
                    let mut told = told;
                    told.sort_by_key(order);
                    prop_assert_eq!(known, told);
                    count += register.sessions(&user(number), incarnation).len();
                }
                let heard = |handle| companions.hear(&user(number), handle, Position { epoch: 1, seq: 1 });
                prop_assert_eq!(heard((LeaseId(LEASES + 1), 0)), count > 0);
                for known in register.all_sessions(&user(number)) {
                    prop_assert_eq!(heard((known.lease, known.connection)), count > 1);
                }
            }
            for ring in 1..4 {
                let missing = (1..=LEASES).filter(|lease| plain.announced.get(lease).is_none_or(|(_, at)| *at < ring));
                prop_assert_eq!(register.missing((1..=LEASES).map(LeaseId), ring), missing.count());
            }
        }
        register.end_leases(|_| true);
        prop_assert!(register.users.is_empty() && register.by_lease.is_empty());
    }
}
