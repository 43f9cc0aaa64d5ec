//! A round: one message from one account of the canary to the other, sent, accepted and delivered within a deadline.

use std::{fmt, pin::pin};

use carillon_client::Client;
use tokio::time::{Instant, sleep_until};

use crate::{
    device::Device,
    ledger::{Arrival, Ledger, Wrong},
    metrics,
};

/// Why a round did not go well.
#[derive(Debug)]
pub(crate) enum Failure {
    NotSignedIn(String),
    NotAccepted(String),
    NotDelivered(u64),
    Wrong(Wrong),
}

impl Failure {
    /// As in the metric of rounds.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::NotSignedIn(_) => "not_signed_in",
            Self::NotAccepted(_) => "not_accepted",
            Self::NotDelivered(_) => "not_delivered",
            Self::Wrong(_) => "wrong",
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotSignedIn(why) => write!(f, "{why}"),
            Self::NotAccepted(why) => write!(f, "a message was not accepted: {why}"),
            Self::NotDelivered(number) => write!(f, "message {number} was accepted and not delivered in time"),
            Self::Wrong(wrong) => write!(f, "{wrong}"),
        }
    }
}

/// Both must be signed in.
pub(crate) async fn round(
    from: &Device,
    to: &mut Device,
    ledger: &mut Ledger,
    deadline: Instant,
) -> Result<(), Failure> {
    let Some(client) = from.client() else {
        return Err(Failure::NotSignedIn(format!("{} has not signed in", from.user)));
    };
    let (number, text) = ledger.next();
    let begun = Instant::now();
    let (recipient, content) = (Client::user(&to.user), Client::text(&text));
    let mut sending = pin!(async { client.send(recipient, content).await.map_err(|error| error.to_string()) });
    let (mut accepted, mut delivered) = (false, false);
    let (mut wrong, mut refused) = (None, None);
    while !(accepted && delivered) {
        // All are cancel-safe: the send goes on in the client.
        tokio::select! {
            sent = &mut sending, if !accepted => match sent {
                Ok(_) => {
                    accepted = true;
                    ledger.accepted(number);
                    metrics::accepted(begun.elapsed());
                }
                Err(why) => {
                    refused = Some(why);
                    break;
                }
            },
            text = to.arrived() => match ledger.arrived(&text) {
                Arrival::Right(_) => {
                    delivered = true;
                    metrics::delivered(begun.elapsed());
                }
                Arrival::Late(number) => tracing::info!(number, "a message of the canary was delivered late"),
                Arrival::Wrong(is) => _ = wrong.get_or_insert(is),
                Arrival::Foreign => {}
            },
            () = sleep_until(deadline) => break,
        }
    }
    // What is wrong counts more than what is slow, whatever ended the round.
    match wrong {
        Some(wrong) => Err(Failure::Wrong(wrong)),
        None if !accepted => Err(Failure::NotAccepted(refused.unwrap_or_else(|| "no answer in time".to_owned()))),
        None if !delivered => Err(Failure::NotDelivered(number)),
        None => Ok(()),
    }
}
