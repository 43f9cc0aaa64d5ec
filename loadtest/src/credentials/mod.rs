//! How the users of a run sign in: by tokens, which are renewed before they end, or by a password.

mod accounts;
mod arguments;

use std::{sync::Arc, time::Duration};

use carillon_client::{Client, Credential, RenewError};
use futures_util::StreamExt as _;
use parking_lot::Mutex;
use rand::RngExt as _;

use self::accounts::Accounts;
pub(crate) use self::arguments::{By, SignInPart};
use crate::{scenario::RunError, token::TokenKey};

/// Accounts that are made at the same time.
const AT_ONCE: usize = 16;
/// After a renewal that was refused.
const AGAIN: Duration = Duration::from_secs(1);

#[derive(Clone)]
pub struct Credentials(Arc<Way>);

#[expect(clippy::large_enum_variant, reason = "a run has one")]
enum Way {
    Token {
        key: TokenKey,
        lifetime: Duration,
    },
    Password(Accounts),
    /// One token, whoever asks.
    Given(String),
}

impl Credentials {
    /// HS256 tokens that are valid for so long.
    pub fn of_secret(secret: &str, lifetime: Duration) -> Self {
        Self::of_key(TokenKey::of_secret(secret), lifetime)
    }

    pub(crate) fn of_key(key: TokenKey, lifetime: Duration) -> Self {
        Self(Arc::new(Way::Token { key, lifetime }))
    }

    /// A token that somebody else has made, and renews if it has to be.
    pub(crate) fn given(token: String) -> Self {
        Self(Arc::new(Way::Given(token)))
    }

    fn of_accounts(accounts: Accounts) -> Self {
        Self(Arc::new(Way::Password(accounts)))
    }

    /// Makes the accounts of these users, if a sign-in does not.
    pub(crate) async fn prepare(&self, users: impl Iterator<Item = String>) -> Result<(), RunError> {
        let Way::Password(accounts) = &*self.0 else { return Ok(()) };
        let failed = Mutex::new(None);
        let failed_ref = &failed;
        futures_util::stream::iter(users)
            .for_each_concurrent(AT_ONCE, |user| async move {
                // The others would fail as well.
                if failed_ref.lock().is_none()
                    && let Err(why) = accounts.make(&user).await
                {
                    failed_ref.lock().get_or_insert(RunError::Account { user, why });
                }
            })
            .await;
        failed.into_inner().map_or(Ok(()), Err)
    }

    pub(crate) fn of(&self, user: &str) -> Credential {
        match &*self.0 {
            Way::Token { key, lifetime } => Credential::Token(key.sign(user, *lifetime)),
            Way::Password(accounts) => Credential::Password(accounts.password().to_owned()),
            Way::Given(token) => Credential::Token(token.clone()),
        }
    }

    /// When a token that is made now is to be replaced: of many that are made at once, each at a time of its own, well before its
    /// end. `None` for what does not end.
    pub(crate) fn renewed_after(&self) -> Option<Duration> {
        match &*self.0 {
            Way::Token { lifetime, .. } => Some(lifetime.mul_f64(rand::rng().random_range(0.5..0.8))),
            Way::Password(_) | Way::Given(_) => None,
        }
    }

    /// Renews the client's token for as long as the client lives.
    pub(crate) async fn keep_renewed(self, user: String, client: Client) {
        let mut next = self.renewed_after();
        while let Some(after) = next {
            tokio::time::sleep(after).await;
            let Credential::Token(token) = self.of(&user) else { return };
            next = match client.renew(&token).await {
                Ok(()) => self.renewed_after(),
                Err(RenewError::Refused(_)) => Some(AGAIN),
                Err(RenewError::Ended(_)) => None,
            };
        }
    }
}
