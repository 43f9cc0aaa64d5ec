//! Accounts of users who are not signed in.

use std::time::Duration;

use carillon_client::SignInError;
use futures_util::StreamExt as _;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::{DEVICE, Environment, RunError, light::Light};

/// Sign-ins at the same time.
const AT_ONCE: usize = 64;
/// For a gateway that tells users to come back later.
const PATIENCE: Duration = Duration::from_secs(60);

/// Signs every user in once, and out again, so that the account exists.
pub(crate) async fn make_accounts(environment: &Environment, users: Vec<String>) -> Result<(), RunError> {
    environment.recorder.set_phase("making accounts");
    environment.credentials.prepare(users.iter().cloned()).await?;
    let failed = Mutex::new(None);
    let goes_on = |_: &(usize, String)| std::future::ready(!environment.ending.is_ended());
    let all = futures_util::stream::iter(users.into_iter().enumerate()).take_while(goes_on);
    all.for_each_concurrent(AT_ONCE, |(number, user)| {
        let failed = &failed;
        async move {
            match enter(environment, number, &user).await {
                Ok(light) => light.sign_out().await,
                Err(error) => _ = failed.lock().get_or_insert((user, error.to_string())),
            }
        }
    })
    .await;
    failed.into_inner().map_or(Ok(()), |(user, why)| Err(RunError::SignIn { user, why }))
}

/// Signs in, and comes back when the gateway says so.
async fn enter(environment: &Environment, number: usize, user: &str) -> Result<Light, SignInError> {
    let give_up = Instant::now() + PATIENCE;
    loop {
        match Light::open(environment, number, (user, DEVICE)).await {
            Err(SignInError::Bye(bye)) if bye.reconnect && Instant::now() < give_up => {
                tokio::time::sleep(Duration::from_millis(bye.reconnect_after_ms.into())).await;
            }
            entered => return entered,
        }
    }
}
