//! Whatever happens, each ask has one answer.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Act {
    Send,
    Fetch,
    Ping,
    Renew,
    Unreadable(bool),
    /// A question to the routers is answered.
    Answer(usize, Outcome),
    Push,
    Backlog(bool),
    Wait(u64),
}

#[derive(Debug, Clone, Copy)]
enum Outcome {
    Done,
    NotNow,
    Never,
    /// Of a kind that answers something else.
    Strange,
}

fn act() -> impl Strategy<Value = Act> {
    let outcome = prop_oneof![
        4 => Just(Outcome::Done),
        1 => Just(Outcome::NotNow),
        1 => Just(Outcome::Never),
        1 => Just(Outcome::Strange),
    ];
    prop_oneof![
        6 => Just(Act::Send),
        2 => Just(Act::Fetch),
        3 => Just(Act::Ping),
        1 => Just(Act::Renew),
        1 => any::<bool>().prop_map(Act::Unreadable),
        8 => (any::<usize>(), outcome).prop_map(|(which, outcome)| Act::Answer(which, outcome)),
        2 => Just(Act::Push),
        1 => any::<bool>().prop_map(Act::Backlog),
        2 => (0..300u64).prop_map(Act::Wait),
    ]
}

/// The ask that an answer names.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Named {
    Send(String),
    Request(u32),
    Ping(u64),
}

struct World {
    play: Play,
    last: u64,
    asked: Vec<Named>,
}

impl World {
    fn act(&mut self, act: Act) {
        let number = self.asked.len() as u32;
        let timeline = Some(inbox("alice"));
        match act {
            Act::Send => self.ask(Named::Send(number.to_string()), send(&number.to_string(), "hi")),
            Act::Fetch => {
                let fetch = Fetch { request: number, timeline, ..Fetch::default() };
                self.ask(Named::Request(number), Body::Fetch(fetch));
            }
            Act::Ping => self.ask(Named::Ping(number.into()), Body::Ping(Ping { nonce: number.into() })),
            Act::Renew => {
                let Body::SignIn(client::SignIn { credential: Some(Credential::Token(token)), .. }) =
                    token_sign_in("alice", 3600)
                else {
                    panic!("a sign-in by token")
                };
                self.ask(Named::Request(number), Body::Renew(client::Renew { request: number, token }));
            }
            Act::Unreadable(is_send) => {
                let what = if is_send { What::ClientId(number.to_string()) } else { What::Request(number) };
                self.asked.push(if is_send { Named::Send(number.to_string()) } else { Named::Request(number) });
                self.play.input(Input::Unreadable { what: what.into(), reason: "wrong".to_owned() });
            }
            Act::Answer(which, outcome) => self.answer(which, outcome),
            Act::Push => {
                self.last += 1;
                self.play.pushed(self.last);
            }
            Act::Backlog(full) => self.play.input(Input::Backlog { full }),
            Act::Wait(ms) => self.play.wait(Duration::from_millis(ms)),
        }
    }

    fn ask(&mut self, asked: Named, body: Body) {
        self.asked.push(asked);
        self.play.says(body);
    }

    fn answer(&mut self, which: usize, outcome: Outcome) {
        if self.play.asked.is_empty() {
            return;
        }
        let which = which % self.play.asked.len();
        self.play.asked.swap(0, which);
        let result = match (outcome, &self.play.asked[0].1) {
            (Outcome::NotNow, _) => Err(refusal(Code::Unavailable, "not now", 100)),
            (Outcome::Never, _) => Err(refusal(Code::NotFound, "no such user", 0)),
            (Outcome::Strange, _) => Ok(Reply::Account(Box::default())),
            (Outcome::Done, Op::Send(_)) => {
                self.last += 1;
                Ok(accepted(self.last))
            }
            (Outcome::Done, Op::Read(asked)) => Ok(read(1, self.last, asked.from_seq.max(1)..=self.last)),
            (Outcome::Done, Op::OpenSession(_)) => Ok(opened(self.last, None)),
            (Outcome::Done, _) => Ok(Reply::Done(Done {})),
        };
        self.play.hears_answer(result);
    }
}

proptest! {
    #[test]
    fn each_ask_has_one_answer_and_positions_come_in_order(
        acts in prop::collection::vec(act(), 0..120),
        signs_out: bool,
    ) {
        let mut world = World { play: Play::live(0), last: 0, asked: Vec::new() };
        for act in acts {
            world.act(act);
        }
        match signs_out {
            true => world.play.says(Body::SignOut(SignOut {})),
            false => world.play.input(Input::HalfClosed),
        }
        for _ in 0..1_000 {
            world.answer(0, Outcome::Done);
        }
        let frames: Vec<_> = world.play.wrote.drain(..).map(|frame| frame.body.expect("a body")).collect();
        prop_assert!(matches!(frames.last(), Some(server_frame::Body::Bye(bye)) if bye.code() == Code::SignedOut));
        let (mut answers, mut next) = (HashMap::<Named, usize>::new(), 1);
        for frame in frames {
            let answered = match frame {
                server_frame::Body::Accepted(accepted) => {
                    next += u64::from(accepted.position == Some(at(next)));
                    Some(Named::Send(accepted.client_id))
                }
                server_frame::Body::Refused(refused) => match refused.what {
                    Some(What::ClientId(id)) => Some(Named::Send(id)),
                    Some(What::Request(request)) => Some(Named::Request(request)),
                    None => None,
                },
                server_frame::Body::Page(page) => Some(Named::Request(page.request)),
                server_frame::Body::Renewed(renewed) => Some(Named::Request(renewed.request)),
                server_frame::Body::Pong(pong) => Some(Named::Ping(pong.nonce)),
                server_frame::Body::Deliver(deliver) => {
                    prop_assert_eq!(deliver.position, Some(at(next)));
                    next += 1;
                    None
                }
                _ => None,
            };
            if let Some(answered) = answered {
                *answers.entry(answered).or_default() += 1;
            }
        }
        for asked in &world.asked {
            prop_assert_eq!(answers.remove(asked), Some(1), "{:?}", asked);
        }
        prop_assert!(answers.is_empty(), "nobody has asked for {answers:?}");
    }
}
