//! Accounts.

use anyhow::bail;
use carillon_proto::{
    UserId, credentials,
    pb::admin::{DeleteUserRequest, PutUserRequest},
};
use clap::Subcommand;
use tonic::Code;

use super::{
    admin_client::{Routers, with_deadline},
    credential::new_password,
    out,
};
use crate::Config;

#[derive(Subcommand)]
pub(super) enum User {
    /// Makes an account.
    Add {
        name: UserId,
        /// Read the password from standard input, its first line.
        #[arg(long, conflicts_with = "no_password")]
        password_stdin: bool,
        /// Sign-in by token only.
        #[arg(long)]
        no_password: bool,
        /// Replace the credentials of an account that exists.
        #[arg(long)]
        replace: bool,
        /// host:port of a router; otherwise from the configuration.
        #[arg(long)]
        router: Option<String>,
    },
    /// Removes an account.
    Delete {
        name: UserId,
        /// host:port of a router; otherwise from the configuration.
        #[arg(long)]
        router: Option<String>,
    },
}

impl User {
    pub(super) async fn run(self, config: &Config) -> anyhow::Result<()> {
        match self {
            Self::Add { name, password_stdin, no_password, replace, router } => {
                let routers = Routers::of(config, router.as_deref())?;
                let scram = if no_password {
                    None
                } else {
                    Some(credentials::new_credentials(&new_password(&name, password_stdin)?)?)
                };
                let request = PutUserRequest { user: name.as_str().to_owned(), scram, replace };
                let put = routers
                    .ask(async |mut admin, deadline| admin.put_user(with_deadline(request.clone(), deadline)).await)
                    .await?;
                match put {
                    Ok(_) => out::line(format_args!("user {name} is there"))?,
                    Err(status) if status.code() == Code::AlreadyExists => {
                        bail!("there is a user {name} already; use --replace to change the credentials")
                    }
                    Err(status) => bail!("user {name} was not made: {}", status.message()),
                }
            }
            Self::Delete { name, router } => {
                let request = DeleteUserRequest { user: name.as_str().to_owned() };
                let deleted = Routers::of(config, router.as_deref())?
                    .ask(async |mut admin, deadline| admin.delete_user(with_deadline(request.clone(), deadline)).await)
                    .await?;
                match deleted {
                    Ok(_) => out::line(format_args!("user {name} is gone"))?,
                    Err(status) => bail!("user {name} was not removed: {}", status.message()),
                }
            }
        }
        Ok(())
    }
}
