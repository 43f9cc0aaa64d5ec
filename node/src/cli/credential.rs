//! The credentials of the terminal client, and the commands for tokens.

use std::{
    io::{IsTerminal as _, Read as _},
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, bail};
use carillon_client::Credential;
use carillon_proto::{UserId, now_ms, pb::admin::RevokeTokensRequest, peer::Tier};
use clap::{Args, Subcommand};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde::Serialize;

use super::{
    admin_client::{Routers, with_deadline},
    date,
    ended::ended,
    out, small, variable,
};
use crate::{Config, Secrets};

/// The claims of a token (RFC 7519).
#[derive(Serialize)]
struct Claims<'a> {
    sub: &'a str,
    iat: u64,
    exp: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    aud: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    iss: Option<&'a str>,
}

#[derive(Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(super) struct TokenCommand {
    #[command(subcommand)]
    command: Option<Token>,
    /// Who is to sign in with it.
    #[arg(required = true)]
    user: Option<UserId>,
    /// How long it is valid, for example 90s, 15m, 24h or 30d.
    #[arg(long, default_value = "24h", value_parser = parse_duration)]
    ttl: Duration,
}

#[derive(Subcommand)]
enum Token {
    /// Refuses tokens of a user from now on, and ends the sessions that were opened with them.
    #[command(
        override_usage = "carillon token revoke [OPTIONS] <USER> --before <TIME>\n       carillon token revoke [OPTIONS] <USER> --id <JTI>"
    )]
    Revoke {
        /// The user whose tokens are refused.
        user: UserId,
        /// All that were issued before this time: `now`, seconds since 1970, or like 2026-12-31T23:59:59Z. Tokens without
        /// `iat` are among them. With a time in the future, also those that are made until then.
        #[arg(long, value_name = "TIME", value_parser = parse_time, required_unless_present = "id")]
        before: Option<u64>,
        /// The one with this `jti`.
        #[arg(long, value_name = "JTI", conflicts_with = "before")]
        id: Option<String>,
        /// With --id: how long that token can be valid at most, as from now.
        #[arg(long, value_name = "TIME", default_value = "30d", value_parser = parse_duration)]
        expires: Duration,
        /// host:port of a router; otherwise from the configuration.
        #[arg(long)]
        router: Option<String>,
    },
}

impl TokenCommand {
    pub(super) fn run(&self, config: &Config) -> anyhow::Result<()> {
        if let Some(Token::Revoke { user, before, id, expires, router }) = &self.command {
            let id = id.clone().unwrap_or_default();
            let expires_ms = if id.is_empty() { 0 } else { now_ms().saturating_add(expires.as_millis() as u64) };
            let request = RevokeTokensRequest {
                user: user.as_str().to_owned(),
                before_ms: before.unwrap_or_default(),
                id,
                expires_ms,
            };
            return small(revoke(config, request, router.as_deref()));
        }
        let Some(user) = &self.user else { bail!("no user is named") };
        let token = make_token(config, user, self.ttl)?;
        let missing =
            "there is no HS256 secret to sign with: start `carillon` here first, or configure gateway.jwt.keys";
        out::line(token.context(missing)?)
    }
}

async fn revoke(config: &Config, request: RevokeTokensRequest, router: Option<&str>) -> anyhow::Result<()> {
    let reply = Routers::of(config, router)?
        .ask(async |mut admin, deadline| admin.revoke_tokens(with_deadline(request.clone(), deadline)).await)
        .await?;
    match reply {
        Ok(reply) => {
            out::line(format_args!("tokens of {} are revoked{}", request.user, ended(reply.into_inner().ended)))?;
            // `now` means the end of this second.
            if request.before_ms > now_ms() + 1_000 {
                let until = date::format(request.before_ms);
                out::line(format_args!("so are those that are made until {until}: new ones count from then on"))?;
            }
            Ok(())
        }
        Err(status) => bail!("no token was revoked: {}", status.message()),
    }
}

#[derive(Args)]
pub(super) struct TierToken {
    /// storage, router, gateway or operator.
    #[arg(value_parser = parse_tier)]
    tier: Tier,
}

impl TierToken {
    pub(super) fn run(&self, config: &Config) -> anyhow::Result<()> {
        out::line(Secrets::of(config).derived_token(config, self.tier)?)
    }
}

fn parse_tier(text: &str) -> Result<Tier, String> {
    let known = || Tier::ALL.map(Tier::as_str).join(", ");
    Tier::ALL.into_iter().find(|tier| tier.as_str() == text).ok_or_else(|| format!("it must be one of {}", known()))
}

#[derive(Args)]
pub(super) struct CredentialOptions {
    /// Sign in with this token. Without it: the token in CARILLON_TOKEN; the password in CARILLON_PASSWORD; a token made with
    /// the local secret, if the data folder has it; a question for the password.
    #[arg(long, global = true)]
    token: Option<String>,
}

impl CredentialOptions {
    pub(super) fn credential(&self, config: &Config, user: &UserId) -> anyhow::Result<Credential> {
        if let Some(token) = self.token.clone().or_else(|| variable("CARILLON_TOKEN")) {
            return Ok(Credential::Token(token));
        }
        if let Some(password) = variable("CARILLON_PASSWORD") {
            return Ok(Credential::Password(password));
        }
        if let Some(token) = make_token(config, user, Duration::from_secs(24 * 60 * 60))? {
            return Ok(Credential::Token(token));
        }
        if !std::io::stdin().is_terminal() {
            bail!("no credential: give --token or CARILLON_PASSWORD, or --data-dir of the service if it runs here");
        }
        Ok(Credential::Password(rpassword::prompt_password(format!("password of {user}: "))?))
    }
}

/// `None` if there is no secret to sign with.
pub(crate) fn make_token(config: &Config, user: &UserId, ttl: Duration) -> anyhow::Result<Option<String>> {
    let Some(secret) = Secrets::of(config).token_secret(config, user.domain())? else { return Ok(None) };
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).context("the clock is before 1970")?.as_secs();
    let Some(jwt) = config.gateway.jwt_of(user.domain()) else { return Ok(None) };
    let claims = Claims {
        sub: user.as_str(),
        iat: now,
        exp: now.saturating_add(ttl.as_secs()),
        aud: jwt.audience.as_deref(),
        iss: jwt.issuer.as_deref(),
    };
    let mut header = Header::new(Algorithm::HS256);
    header.kid = jwt
        .keys
        .iter()
        .find(|key| key.algorithm == carillon_gateway::JwtAlgorithm::HS256)
        .and_then(|key| key.kid.clone());
    let token = jsonwebtoken::encode(&header, &claims, &EncodingKey::from_secret(&secret)).context("can't sign")?;
    Ok(Some(token))
}

/// A new password: from standard input, or asked for twice.
pub(super) fn new_password(user: &UserId, stdin: bool) -> anyhow::Result<String> {
    if stdin {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).context("can't read the password from standard input")?;
        return Ok(text.lines().next().unwrap_or_default().to_owned());
    }
    if !std::io::stdin().is_terminal() {
        bail!("there is no terminal to ask for a password: use --password-stdin or --no-password");
    }
    let password = rpassword::prompt_password(format!("new password of {user}: "))?;
    if rpassword::prompt_password("again: ")? != password {
        bail!("the two passwords differ");
    }
    Ok(password)
}

/// The time in milliseconds since 1970.
fn parse_time(text: &str) -> Result<u64, String> {
    // Times in tokens are in seconds: every token issued by now becomes invalid, and tokens of the next second are
    // valid.
    if text == "now" {
        return Ok((now_ms() / 1000 + 1) * 1000);
    }
    if let Ok(seconds) = text.parse::<u64>() {
        return seconds.checked_mul(1000).ok_or_else(|| format!("{text} is too late"));
    }
    date::parse(text)
        .ok_or_else(|| format!("{text:?} is neither now, nor seconds since 1970, nor like 2026-12-31T23:59:59Z"))
}

pub(super) fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is not a time like 90s, 15m, 24h or 30d");
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?);
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return Err(wrong()),
    };
    let number: u64 = number.parse().map_err(|_| wrong())?;
    number.checked_mul(seconds).filter(|seconds| *seconds > 0).map(Duration::from_secs).ok_or_else(wrong)
}

/// A length of time as [`parse_duration`] reads it, or so many seconds.
pub(super) fn parse_seconds(text: &str) -> Result<Duration, String> {
    text.parse().map(Duration::from_secs).or_else(|_| parse_duration(text))
}

/// A length of time as [`parse_duration`] reads it, or 0.
pub(super) fn duration_or_none(text: &str) -> Result<Duration, String> {
    if text == "0" { Ok(Duration::ZERO) } else { parse_duration(text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units() {
        assert_eq!((duration_or_none("0"), duration_or_none("1m")), (Ok(Duration::ZERO), Ok(Duration::from_secs(60))));
        assert_eq!((parse_seconds("90"), parse_seconds("0")), (Ok(Duration::from_secs(90)), Ok(Duration::ZERO)));
        assert_eq!(parse_seconds("15m"), Ok(Duration::from_secs(900)));
        assert_eq!(parse_duration("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_duration("2d"), Ok(Duration::from_secs(172_800)));
        for wrong in ["", "5", "h", "5 h", "-1h", "0s", "99999999999999999999d"] {
            parse_duration(wrong).expect_err(wrong);
        }
    }

    #[test]
    fn times_are_told_in_several_ways() {
        assert_eq!(parse_time("1700000000"), Ok(1_700_000_000_000));
        assert_eq!(parse_time("2023-11-14T22:13:20Z"), Ok(1_700_000_000_000));
        assert!(parse_time("now").is_ok_and(|now| now > 1_700_000_000_000 && now % 1000 == 0));
        for wrong in ["", "tomorrow", "-1", "99999999999999999999", "2023-13-01T00:00:00Z"] {
            parse_time(wrong).expect_err(wrong);
        }
    }

    #[test]
    fn tokens_are_made_only_where_the_secret_is() {
        let folder = tempfile::tempdir().expect("folder");
        let config = Config { data_dir: folder.path().to_owned(), ..Config::default() };
        let user = UserId::new("alice").expect("valid");
        let make = || make_token(&config, &user, Duration::from_secs(60)).expect("no error");
        assert_eq!(make(), None);
        Secrets::of(&config).generate().expect("made");
        assert_eq!(make().expect("a token").split('.').count(), 3);
    }
}
