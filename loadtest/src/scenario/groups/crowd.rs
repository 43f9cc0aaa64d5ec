//! Users in groups who sign in.

use std::time::{Duration, Instant};

use carillon_client::{Client, ClientConfig};
use carillon_proto::pb::client::Start;

use super::{
    InGroups,
    founding::{Places, make_groups_of},
};
use crate::scenario::{Environment, RunError, sign_in::SignInConfig};

/// Time limit for a connection and the sign-in on it.
const SIGN_IN: Duration = Duration::from_secs(30);

pub(crate) struct Crowd {
    /// How far the logs of each user's groups reach; empty if devices do not know it.
    places: Vec<Places>,
}

impl Crowd {
    /// Makes the groups.
    pub(crate) async fn make(
        environment: &Environment,
        groups: InGroups,
        config: &SignInConfig,
    ) -> Result<Self, RunError> {
        let count = config.users.max(1);
        let users: Vec<_> = (0..count).map(|number| format!("{}-{number}", environment.run)).collect();
        let plan = groups.plan(count);
        let places = make_groups_of(environment, &users, plan, config.up_to_date).await?;
        let of = |groups: Vec<usize>| groups.into_iter().map(|group| places[group].clone()).collect();
        let places = if config.up_to_date { plan.groups_of_all().into_iter().map(of).collect() } else { Vec::new() };
        Ok(Self { places })
    }

    /// Signs a device of this user in. Returns when that was answered.
    pub(crate) async fn sign_in(
        &self,
        environment: &Environment,
        number: usize,
        (user, device): (&str, &str),
        config: &SignInConfig,
    ) -> Result<Instant, (String, String)> {
        let positions = self.places.get(number).cloned().unwrap_or_default();
        let client = environment.target.config((user, device), environment.credentials.of(user));
        let client = ClientConfig { start: Start::Head, positions, ..client };
        let failed = |why: String| (user.to_owned(), why);
        let (client, _) = Client::open(client, &environment.tasks).map_err(|error| failed(error.to_string()))?;
        client.connected(SIGN_IN).await.map_err(failed)?;
        let at = Instant::now();
        environment.recorder.signed_in();
        if config.sign_out {
            client.close().await;
            environment.recorder.signed_out();
        } else {
            environment.tasks.spawn("signed in", async move {
                let _signed_in = client;
                std::future::pending::<()>().await;
            });
        }
        Ok(at)
    }
}
