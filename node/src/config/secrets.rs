//! Secrets: made at the first start, and kept in files that only their owner may read.

use std::{
    fmt,
    fs::{self, DirBuilder, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use carillon_gateway::{JwtAlgorithm, JwtKeyConfig, TokenKeyError, read_token_secret};
use carillon_proto::peer::{self, PeerError, PeerSecurity, PeerTls, Tier, TierTokens};
use rand::RngExt as _;
use serde::{Deserialize, Serialize, Serializer};

use super::Config;

/// A secret that is never shown.
#[derive(Clone, Default, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

/// The folder `data_dir/secrets`.
pub struct Secrets {
    folder: PathBuf,
}

#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    #[error("{setting} {} can't be read: {source}", path.display())]
    Read { setting: &'static str, path: PathBuf, source: io::Error },
    #[error("can't write {}: {source}", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error(
        "there is no cluster secret: set cluster.secret_file to a file that all nodes share, or cluster.tokens \
         (looked for {})",
        looked_for.display()
    )]
    NoClusterSecret { looked_for: PathBuf },
    #[error("{setting} {why}")]
    Invalid { setting: String, why: PeerError },
    #[error("gateway.jwt.keys: {0}")]
    Token(#[from] TokenKeyError),
    #[error(transparent)]
    Peer(#[from] PeerError),
}

impl Secrets {
    pub fn of(config: &Config) -> Self {
        Self { folder: config.data_dir.join("secrets") }
    }

    /// Makes missing secrets, for a process that is a cluster of its own.
    pub fn generate(&self) -> Result<(), SecretError> {
        for path in [self.cluster_path(), self.token_path()] {
            make(&path)?;
        }
        Ok(())
    }

    pub(crate) fn cluster_path(&self) -> PathBuf {
        self.folder.join("cluster")
    }

    pub(crate) fn token_path(&self) -> PathBuf {
        self.folder.join("token")
    }

    /// The credentials with which a process of these tiers, or the operator, talks to other nodes. Calls are made as
    /// the first tier.
    pub fn peer_security(&self, config: &Config, tiers: &[Tier]) -> Result<PeerSecurity, SecretError> {
        let tokens = self.tokens(config)?;
        let needed = || tiers.iter().flat_map(|tier| needed_by(*tier).iter().copied());
        if let Some(tier) = needed().find(|tier| !tokens.has(*tier)) {
            return Err(match Tier::ALL.iter().any(|tier| tokens.has(*tier)) {
                true => PeerError::NoToken { tier }.into(),
                false => SecretError::NoClusterSecret { looked_for: self.cluster_path() },
            });
        }
        let own = tiers.first().copied().unwrap_or(Tier::Operator);
        Ok(PeerSecurity::new(own, tokens, peer_tls(config)?)?)
    }

    /// All tokens that this process knows.
    pub(crate) fn tokens(&self, config: &Config) -> Result<TierTokens, SecretError> {
        let mut tokens = self.derived(config)?;
        Tier::ALL.into_iter().try_for_each(|tier| give(&mut tokens, config, tier))?;
        Ok(tokens)
    }

    /// All problems of the secret, the tokens and the files of cluster.tls.
    pub(crate) fn invalid(&self, config: &Config) -> Vec<SecretError> {
        let mut tokens = TierTokens::default();
        let tls = || Ok(peer_tls(config)?.map_or(Ok(()), |tls| tls.check())?);
        let derived = self.derived(config).err();
        let given = Tier::ALL.into_iter().filter_map(|tier| give(&mut tokens, config, tier).err());
        derived.into_iter().chain(given).chain(tls().err()).collect()
    }

    /// The tokens derived from the secret; none without a secret.
    fn derived(&self, config: &Config) -> Result<TierTokens, SecretError> {
        let Some((setting, secrets)) = self.secret(config)? else { return Ok(TierTokens::default()) };
        TierTokens::derived(&secrets).map_err(|why| SecretError::Invalid { setting, why })
    }

    /// The tier's token as derived from the secret: for a file on a machine that must not have the secret.
    pub(crate) fn derived_token(&self, config: &Config, tier: Tier) -> Result<String, SecretError> {
        let Some((setting, secrets)) = self.secret(config)? else {
            return Err(SecretError::NoClusterSecret { looked_for: self.cluster_path() });
        };
        let lines = peer::lines(&secrets).map_err(|why| SecretError::Invalid { setting, why })?;
        Ok(lines.iter().map(|secret| peer::derive(secret, tier)).collect::<Vec<_>>().join("\n"))
    }

    /// The place where the secret was found, and its text: one secret a line.
    fn secret(&self, config: &Config) -> Result<Option<(String, String)>, SecretError> {
        let cluster = &config.cluster;
        if !cluster.secret.is_empty() {
            return Ok(Some(("cluster.secret".to_owned(), cluster.secret.0.clone())));
        }
        let path = if !cluster.secret_file.as_os_str().is_empty() {
            cluster.secret_file.clone()
        } else if self.cluster_path().exists() {
            self.cluster_path()
        } else {
            return Ok(None);
        };
        Ok(Some((format!("cluster.secret_file {}", path.display()), read("cluster.secret_file", &path)?)))
    }

    /// All secrets that this configuration has, as far as their files can be read: what must not be in any report.
    pub(crate) fn texts(&self, config: &Config) -> Vec<String> {
        let cluster = self.secret(config).ok().flatten().map(|(_, text)| text).unwrap_or_default();
        let secrets = peer::lines(&cluster).unwrap_or_default();
        let derived = secrets.iter().flat_map(|secret| Tier::ALL.map(|tier| peer::derive(secret, tier)));
        let mut files: Vec<PathBuf> = Tier::ALL.map(|tier| config.cluster.tokens.of(tier).to_owned()).to_vec();
        files.extend([config.cluster.secret_file.clone(), self.cluster_path(), self.token_path()]);
        files.push(config.canary.password_file.clone());
        let keys = || config.gateway.token_keys();
        files.extend(keys().filter_map(|key| key.secret_file.clone()));
        let of_files = files.iter().filter_map(|path| fs::read_to_string(path).ok());
        let lines = of_files.flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>());
        let of_keys = keys().filter_map(|key| key.secret.as_ref()).map(|secret| secret.0.clone());
        let own = [config.cluster.secret.0.clone()];
        derived.chain(cluster.lines().map(str::to_owned)).chain(lines).chain(of_keys).chain(own).collect()
    }

    /// The generated key with which gateways check tokens, if the configuration has no key.
    pub(crate) fn token_key(&self) -> Option<JwtKeyConfig> {
        let path = self.token_path();
        let key = JwtKeyConfig::new(JwtAlgorithm::HS256);
        path.exists().then_some(JwtKeyConfig { secret_file: Some(path), ..key })
    }

    /// The secret for making tokens of users of this domain: the first HS256 key of the configuration, or, of the default one, the
    /// generated one.
    pub fn token_secret(&self, config: &Config, domain: Option<&str>) -> Result<Option<Vec<u8>>, SecretError> {
        let Some(jwt) = config.gateway.jwt_of(domain) else { return Ok(None) };
        let configured = jwt.keys.iter().find(|key| key.algorithm == JwtAlgorithm::HS256);
        if let Some(secret) = configured.and_then(|key| key.secret.as_ref()) {
            return Ok(Some(secret.0.clone().into_bytes()));
        }
        let configured = configured.and_then(|key| key.secret_file.clone());
        let is_generated = domain.is_none() && jwt.keys.is_empty();
        let generated = || Some(self.token_path()).filter(|path| is_generated && path.exists());
        Ok(configured.or_else(generated).map(|path| read_token_secret(&path)).transpose()?)
    }
}

/// The tiers whose tokens a node of this tier needs: its own and those of its callers. Without the operator's token, a
/// router serves everything except the command line.
fn needed_by(tier: Tier) -> &'static [Tier] {
    match tier {
        Tier::Storage => &[Tier::Storage, Tier::Router],
        Tier::Router => &[Tier::Router, Tier::Gateway],
        Tier::Gateway => &[Tier::Gateway],
        Tier::Operator => &[Tier::Operator],
    }
}

/// Reads the files of cluster.tls.
pub(crate) fn peer_tls(config: &Config) -> Result<Option<PeerTls>, SecretError> {
    let Some(tls) = &config.cluster.tls else { return Ok(None) };
    Ok(Some(PeerTls {
        ca: read("cluster.tls.ca", &tls.ca)?,
        certificate: read("cluster.tls.certificate", &tls.certificate)?,
        key: read("cluster.tls.key", &tls.key)?,
        server_name: Some(tls.server_name.clone()).filter(|name| !name.is_empty()),
    }))
}

/// Makes the file with 256 random bits in hexadecimal, unless it exists. If two processes do this at once, both use the
/// file of the first one.
fn make(path: &Path) -> Result<(), SecretError> {
    let failed = |source| SecretError::Write { path: path.to_owned(), source };
    if path.exists() {
        return Ok(());
    }
    let folder = path.parent().unwrap_or(Path::new("."));
    DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed)?;
    let secret: [u8; 32] = rand::rng().random();
    let text: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
    let noise: u64 = rand::rng().random();
    let temporary = path.with_extension(format!("{noise:016x}"));
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        writeln!(file, "{text}")?;
        file.sync_all()?;
        // Unlike a rename, this never replaces a file that another process has made meanwhile.
        match fs::hard_link(&temporary, path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            linked => linked,
        }?;
        fs::File::open(folder)?.sync_all()
    })();
    // If this fails, the file that stays behind is harmless.
    let _ = fs::remove_file(&temporary);
    written.map_err(failed)
}

/// Adds the token that the configuration has for this tier, if it has one.
fn give(tokens: &mut TierTokens, config: &Config, tier: Tier) -> Result<(), SecretError> {
    let path = config.cluster.tokens.of(tier);
    if path.as_os_str().is_empty() {
        return Ok(());
    }
    let setting = token_setting(tier);
    let invalid = |why| SecretError::Invalid { setting: format!("{setting} {}", path.display()), why };
    tokens.give(tier, &read(setting, path)?).map_err(invalid)
}

fn token_setting(tier: Tier) -> &'static str {
    match tier {
        Tier::Storage => "cluster.tokens.storage_file",
        Tier::Router => "cluster.tokens.router_file",
        Tier::Gateway => "cluster.tokens.gateway_file",
        Tier::Operator => "cluster.tokens.operator_file",
    }
}

fn read(setting: &'static str, path: &Path) -> Result<String, SecretError> {
    fs::read_to_string(path).map_err(|source| SecretError::Read { setting, path: path.to_owned(), source })
}

impl Secret {
    pub fn new(secret: &str) -> Self {
        Self(secret.to_owned())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_empty() { "none" } else { "[secret]" })
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(if self.is_empty() { "" } else { "[secret]" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn in_folder(folder: &Path) -> (Config, Secrets) {
        let config = Config { data_dir: folder.join("data"), ..Config::default() };
        let secrets = Secrets::of(&config);
        (config, secrets)
    }

    #[test]
    fn secrets_are_made_once_and_only_their_owner_may_read_them() {
        let folder = tempfile::tempdir().expect("folder");
        let (config, secrets) = in_folder(folder.path());
        secrets.generate().expect("made");
        let first = secrets.token_secret(&config, None).expect("readable").expect("there");
        assert_eq!(first.len(), 64);
        secrets.generate().expect("nothing to do");
        assert_eq!(secrets.token_secret(&config, None).expect("readable").expect("there"), first);
        secrets.peer_security(&config, &[Tier::Storage]).expect("valid");
        let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
        assert_eq!(mode(&secrets.folder), 0o700);
        for entry in fs::read_dir(&secrets.folder).expect("folder") {
            assert_eq!(mode(&entry.expect("entry").path()), 0o600);
        }
        assert_eq!(fs::read_dir(&secrets.folder).expect("folder").count(), 2, "nothing is left over");
    }

    #[test]
    fn without_a_cluster_secret_the_error_names_the_setting() {
        let folder = tempfile::tempdir().expect("folder");
        let (config, secrets) = in_folder(folder.path());
        let error = secrets.peer_security(&config, &[Tier::Gateway]).err().expect("refused").to_string();
        assert!(error.contains("cluster.secret_file"), "{error}");
        let mut short = config;
        short.cluster.secret = Secret::new("short");
        let error = secrets.peer_security(&short, &[Tier::Gateway]).err().expect("refused").to_string();
        assert!(error.contains("cluster.secret"), "{error}");
    }

    #[test]
    fn a_gateway_starts_with_its_own_token_and_without_the_secret() {
        let folder = tempfile::tempdir().expect("folder");
        let (mut config, secrets) = in_folder(folder.path());
        let token = folder.path().join("gateway-token");
        fs::write(&token, peer::derive("0123456789abcdef", Tier::Gateway)).expect("written");
        config.cluster.tokens.gateway_file = token;
        secrets.peer_security(&config, &[Tier::Gateway]).expect("enough");
        let error = secrets.peer_security(&config, &[Tier::Router]).err().expect("refused").to_string();
        assert!(error.contains("cluster.secret_file"), "{error}");
    }
}
