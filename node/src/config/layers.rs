//! Defaults, then the file, then the environment, then flags: each overrides the one before, key by key.

use std::{collections::BTreeMap, path::Path};

use toml::{Table, Value};

use super::{
    Config,
    keys::{is_in_section, is_known, is_secret, is_section, meant},
};

/// Settings from several places. The later call wins.
#[derive(Default)]
pub struct Layers {
    merged: Table,
    /// The source of each key, for errors.
    origins: BTreeMap<String, String>,
    problem: Option<ConfigError>,
    warnings: Vec<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("can't read configuration {file}: {why}")]
    File { file: String, why: String },
    /// `hint` says what was meant, or which settings exist.
    #[error("unknown setting {key} (from {origin}); {hint}")]
    Unknown { key: String, origin: String, hint: String },
    #[error("setting {key} (from {origin}): {why}")]
    Type { key: String, origin: String, why: String },
    #[error("{key} {why}")]
    Value { key: String, why: String },
    /// The text without the part that may be a secret.
    #[error("--set takes KEY=VALUE, for example gateway.tcp.listen=127.0.0.1:7410, but here is no = behind {0}")]
    Set(String),
}

/// Variables of the environment that are not settings.
const NOT_SETTINGS: &[&str] = &[
    "CARILLON_CONFIG",
    "CARILLON_PASSWORD",
    "CARILLON_TOKEN",
    "CARILLON_URL",
    #[cfg(feature = "planted-bugs")]
    carillon_proto::planted::VARIABLE,
];

impl Layers {
    pub fn file(self, path: &Path) -> Self {
        let file = path.display().to_string();
        match std::fs::read_to_string(path) {
            Ok(text) => self.text(&text, &file),
            Err(error) => self.fail(ConfigError::File { file, why: error.to_string() }),
        }
    }

    pub fn text(mut self, text: &str, origin: &str) -> Self {
        match text.parse::<Table>() {
            Ok(table) => {
                self.merge(table, origin);
                self
            }
            Err(error) => {
                // The parser's own text quotes the line, which may contain a secret.
                let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
                let line = before.matches('\n').count() + 1;
                self.fail(ConfigError::File {
                    file: origin.to_owned(),
                    why: format!("line {line}: {}", error.message().trim()),
                })
            }
        }
    }

    /// Adds variables such as `CARILLON_GATEWAY__TCP__LISTEN`, which sets gateway.tcp.listen. An empty variable counts
    /// as absent. A variable that is not a setting is ignored; if it resembles a setting, a warning is added.
    pub fn environment(mut self, variables: impl IntoIterator<Item = (String, String)>) -> Self {
        for (name, value) in variables {
            let Some(key) = name.strip_prefix("CARILLON_") else { continue };
            if value.is_empty() || NOT_SETTINGS.contains(&name.as_str()) || is_kubernetes_service(key) {
                continue;
            }
            let key = key.to_lowercase().replace("__", ".");
            let parts: Vec<&str> = key.split('.').collect();
            // A name that begins with a section is meant for this program, and is refused if it is wrong.
            if is_known(&key, &value_of(&parts, &value)) || is_in_section(&key) {
                self.set(&key, &value, &format!("environment variable {name}"));
            } else if is_section(&key) {
                self.warnings.push(format!("environment variable {name} sets nothing: {key} is a section of settings"));
            } else if let Some(meant) = meant(&key) {
                let right = format!("CARILLON_{}", meant.to_uppercase().replace('.', "__"));
                self.warnings.push(format!("environment variable {name} sets nothing: did you mean {right}?"));
            }
        }
        self
    }

    /// The settings that the environment has set, and nothing after it.
    pub(crate) fn set_by_environment(&self) -> impl Iterator<Item = &str> {
        let is_section = |key: &str| self.origins.keys().any(|other| other.starts_with(&format!("{key}.")));
        let origins = self.origins.iter().filter(|(_, origin)| origin.starts_with("environment variable"));
        origins.map(|(key, _)| key.as_str()).filter(move |key| !is_section(key))
    }

    /// Warnings for people.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Adds settings in the form `KEY=VALUE`.
    pub fn sets(mut self, sets: &[String]) -> Result<Self, ConfigError> {
        for set in sets {
            let Some((key, value)) = set.split_once('=') else {
                let is_of_key = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '.';
                let end = set.find(|c| !is_of_key(c)).unwrap_or(set.len());
                return Err(ConfigError::Set(set[..end].to_owned()));
            };
            self.set(key.trim(), value, &format!("--set {}", key.trim()));
        }
        Ok(self)
    }

    /// Adds a setting that has a flag of its own.
    pub fn flag(mut self, key: &str, value: Option<&str>, flag: &str) -> Self {
        if let Some(value) = value {
            self.set(key, value, flag);
        }
        self
    }

    pub fn load(self) -> Result<Config, ConfigError> {
        if let Some(problem) = self.problem {
            return Err(problem);
        }
        let origin_of = |key: &str| {
            let below = || self.origins.iter().find(|(other, _)| other.starts_with(&format!("{key}.")));
            let found = self.origins.get(key).or_else(|| below().map(|(_, origin)| origin));
            // A value inside a list has the source of the list.
            let around = || around(key).find_map(|key| self.origins.get(key));
            found.or_else(around).cloned().unwrap_or_else(|| "defaults".to_owned())
        };
        let config: Result<Config, _> = serde_path_to_error::deserialize(Value::Table(self.merged.clone()));
        config.map(Config::complete).map_err(|error| {
            let path = error.path().to_string();
            let why = error.inner().to_string();
            let why = why.trim().lines().next().unwrap_or_default().to_owned();
            match unknown_field(&why) {
                Some((field, known)) => {
                    let at_field = path == field || path.ends_with(&format!(".{field}"));
                    let key = match path.as_str() {
                        _ if at_field => path,
                        "." | "" => field.to_owned(),
                        _ => format!("{path}.{field}"),
                    };
                    let hint = meant(&key).map_or(known.to_owned(), |meant| format!("did you mean {meant}?"));
                    ConfigError::Unknown { origin: origin_of(&key), key, hint }
                }
                None => {
                    // Serde's text contains the value, unless the field is missing.
                    let shown = !is_secret(&path) || why.starts_with("missing field");
                    let why = if shown { why } else { "has a value of a wrong type".to_owned() };
                    ConfigError::Type { origin: origin_of(&path), key: path, why }
                }
            }
        })
    }

    /// The merged settings as a table, for writing a file.
    pub(crate) fn into_table(self) -> Result<Table, ConfigError> {
        match self.problem {
            Some(problem) => Err(problem),
            None => Ok(self.merged),
        }
    }

    fn fail(mut self, problem: ConfigError) -> Self {
        self.problem.get_or_insert(problem);
        self
    }

    fn set(&mut self, key: &str, text: &str, origin: &str) {
        let mut table = Table::new();
        let parts: Vec<&str> = key.split('.').collect();
        let Some((last, parents)) = parts.split_last() else { return };
        let mut inner = &mut table;
        for parent in parents {
            let entry = inner.entry((*parent).to_owned()).or_insert_with(|| Value::Table(Table::new()));
            let Value::Table(next) = entry else { return };
            inner = next;
        }
        inner.insert((*last).to_owned(), value_of(&parts, text));
        self.merge(table, origin);
    }

    fn merge(&mut self, from: Table, origin: &str) {
        merge(&mut self.merged, from, "", &mut |key| {
            self.origins.insert(key.to_owned(), origin.to_owned());
        });
    }
}

fn merge(into: &mut Table, from: Table, path: &str, leaf: &mut impl FnMut(&str)) {
    for (key, value) in from {
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        match (into.get_mut(&key), value) {
            (Some(Value::Table(into)), Value::Table(from)) => merge(into, from, &path, leaf),
            (None, Value::Table(from)) => {
                let mut table = Table::new();
                merge(&mut table, from, &path, leaf);
                leaf(&path);
                into.insert(key, Value::Table(table));
            }
            (_, value) => {
                leaf(&path);
                into.insert(key, value);
            }
        }
    }
}

/// The settings that enclose `key`, the innermost first: those of `a.b[0].c` are `a.b[0]`, `a.b` and `a`.
fn around(key: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(key), |key| Some(&key[..key.rfind(['.', '['])?])).skip(1)
}

/// The value that a text stands for, by the type of the setting: a text stays a text, a list may be written with
/// commas, and everything else is TOML.
fn value_of(key: &[&str], text: &str) -> Value {
    let defaults = Value::try_from(Config::default()).ok();
    let default = defaults.and_then(|defaults| key.iter().try_fold(defaults, |value, part| value.get(part).cloned()));
    let as_toml = || format!("value = {text}").parse::<Table>().ok().and_then(|mut table| table.remove("value"));
    match default {
        Some(Value::String(_)) => Value::String(text.to_owned()),
        Some(Value::Array(_)) if !text.trim_start().starts_with('[') => {
            let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
            Value::Array(items.map(|item| Value::String(item.to_owned())).collect())
        }
        Some(Value::Float(_)) => {
            text.trim().parse().map(Value::Float).unwrap_or_else(|_| Value::String(text.to_owned()))
        }
        _ => as_toml().unwrap_or_else(|| Value::String(text.to_owned())),
    }
}

/// True for the addresses of services that Kubernetes puts into the environment: a service may be called
/// carillon-something.
fn is_kubernetes_service(key: &str) -> bool {
    !key.contains("__")
        && (key.contains("_SERVICE_")
            || key.contains("_PORT")
            || key.starts_with("PORT")
            || key.starts_with("SERVICE_"))
}

/// The unknown field and the known ones, from the text of serde's error.
fn unknown_field(why: &str) -> Option<(&str, &str)> {
    let (field, known) = why.strip_prefix("unknown field `")?.split_once('`')?;
    Some((field, known.trim_start_matches([',', ' '])))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(name: &str, value: &str) -> Vec<(String, String)> {
        vec![(name.to_owned(), value.to_owned())]
    }

    fn sets(sets: &[&str]) -> Layers {
        let sets: Vec<String> = sets.iter().map(|set| (*set).to_owned()).collect();
        Layers::default().sets(&sets).expect("valid")
    }

    #[test]
    fn flags_win_over_environment_over_file_over_defaults() {
        let file = "[gateway]\nmax_connections = 1\nsend_burst = 1\nmax_page = 1\n[gateway.tcp]\nlisten = \"h:1\"";
        let layers = || {
            Layers::default()
                .text(file, "test.toml")
                .environment(env("CARILLON_GATEWAY__SEND_BURST", "2"))
                .environment(env("CARILLON_GATEWAY__MAX_PAGE", "2"))
        };
        let config = layers().sets(&["gateway.max_page=3".to_owned()]).expect("valid").load().expect("valid");
        let gateway = config.gateway;
        assert_eq!((gateway.max_connections, gateway.send_burst, gateway.max_page), (1, 2, 3));
        assert_eq!(gateway.tcp.listen, "h:1");
        assert!(gateway.tcp.enabled, "a key that no layer names keeps its default");
    }

    #[test]
    fn unknown_keys_are_refused_with_their_full_name_and_origin() {
        for (layers, key, origin) in [
            (Layers::default().text("[gateway.tcp]\nlisen = \"a:1\"", "x.toml"), "gateway.tcp.lisen", "x.toml"),
            (Layers::default().text("nonsense = 1", "x.toml"), "nonsense", "x.toml"),
            (
                Layers::default().environment(env("CARILLON_ROUTER__SHARDS", "1")),
                "router.shards",
                "CARILLON_ROUTER__SHARDS",
            ),
            (sets(&["storage.retention.max_agee=1"]), "storage.retention.max_agee", "--set"),
            (
                Layers::default().text("[[gateway.jwt.keys]]\nalgorithm = \"HS256\"\nsecretfile = \"x\"", "x.toml"),
                "gateway.jwt.keys[0].secretfile",
                "x.toml",
            ),
        ] {
            let error = layers.load().expect_err(key);
            assert!(matches!(&error, ConfigError::Unknown { key: named, .. } if named == key), "{error:?}");
            assert!(error.to_string().contains(origin), "{error}");
        }
    }

    #[test]
    fn values_of_the_wrong_type_are_refused_with_their_full_name() {
        for (layers, key) in [
            (sets(&["gateway.max_page=many"]), "gateway.max_page"),
            (sets(&["admin.listen=nowhere"]), "admin.listen"),
            (sets(&["log.format=xml"]), "log.format"),
            (Layers::default().text("[router]\nstorage = 5", "x.toml"), "router.storage"),
            (sets(&["gateway=5"]), "gateway"),
        ] {
            let error = layers.load().expect_err(key).to_string();
            assert!(error.contains(&format!("setting {key} ")), "{error}");
        }
    }

    #[test]
    fn what_is_wrong_within_a_list_comes_from_where_the_list_does() {
        let key = |lines: &str| Layers::default().text(&format!("[[gateway.jwt.keys]]\n{lines}"), "x.toml");
        for (layers, parts) in [
            (key("algorithm = \"HS512\""), ["gateway.jwt.keys[0].algorithm (from x.toml)", "HS256"]),
            (key("kid = \"7\""), ["gateway.jwt.keys[0] (from x.toml)", "missing field `algorithm`"]),
            (sets(&["gateway.jwt.keys=[{algorithm=\"X\"}]"]), ["gateway.jwt.keys[0].algorithm (from --set", "HS256"]),
            (sets(&["storage.members=[5]"]), ["storage.members[0] (from --set storage.members)", "string"]),
        ] {
            let error = layers.load().expect_err("refused").to_string();
            assert!(parts.iter().all(|part| error.contains(part)), "{error}");
        }
    }

    #[test]
    fn text_is_text_lists_take_commas_and_kubernetes_is_left_alone() {
        let config = sets(&["router.storage=a:1, b:2", "router.advertise=1234", "trace.sample_ratio=1"]);
        let config = config.environment(env("CARILLON_GATEWAY_SERVICE_HOST", "10.0.0.1")).load().expect("valid");
        assert_eq!(config.router.storage, ["a:1", "b:2"]);
        assert_eq!(config.router.advertise, "1234");
        assert_eq!(config.trace.sample_ratio, 1.0);
        let config = sets(&["router.storage=[\"c:3\"]"]).load().expect("valid");
        assert_eq!(config.router.storage, ["c:3"]);
    }

    #[test]
    fn foreign_and_empty_variables_do_no_harm_and_a_near_miss_is_told() {
        for (name, value) in [("CARILLON_HOME", "/opt"), ("CARILLON_LOG__LEVEL", ""), ("CARILLON_IMAGE_TAG", "7")] {
            let layers = Layers::default().environment(env(name, value));
            assert!(layers.warnings().is_empty(), "{:?}", layers.warnings());
            assert_eq!(layers.load().expect(name).log.level, "info");
        }
        for (name, right) in [
            ("CARILLON_LOG_LEVEL", "CARILLON_LOG__LEVEL"),
            ("CARILLON_DATADIR", "CARILLON_DATA_DIR"),
            ("CARILLON_GATEWAY_TCP_LISTEN", "CARILLON_GATEWAY__TCP__LISTEN"),
        ] {
            let layers = Layers::default().environment(env(name, "debug"));
            let told = layers.warnings().concat();
            assert!(told.contains(name) && told.contains(&format!("did you mean {right}?")), "{told}");
            layers.load().expect(name);
        }
        let error = Layers::default().environment(env("CARILLON_LOG__LEVL", "debug")).load().expect_err("refused");
        assert!(error.to_string().contains("did you mean log.level?"), "{error}");
    }

    #[test]
    fn no_error_shows_a_secret() {
        const SECRET: &str = "hunter2hunter2hunter2";
        let set = |set: String| Layers::default().sets(&[set]);
        let text = |text: String| Layers::default().text(&text, "x.toml").load().expect_err("refused").to_string();
        for error in [
            set(format!("cluster.secret.x={SECRET}")).expect("parsed").load().expect_err("refused").to_string(),
            set(format!("cluster.secre={SECRET}")).expect("parsed").load().expect_err("refused").to_string(),
            set(format!("gateway.jwt.keys=[{SECRET:?}]")).expect("parsed").load().expect_err("refused").to_string(),
            set(format!("cluster.secret:{SECRET}")).err().expect("refused").to_string(),
            text(format!("[cluster]\nsecret = \"{SECRET}")),
            text(format!("[cluster]\nsecret = {SECRET}")),
            text(format!("[gateway.jwt]\nkeys = \"{SECRET}\"")),
            text(format!("[[gateway.jwt.keys]]\nalgorithm = \"HS256\"\nsecret = [\"{SECRET}\"]")),
        ] {
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn a_file_that_is_not_toml_is_refused_by_name() {
        let error = Layers::default().text("gateway = [", "x.toml").load().expect_err("refused");
        assert!(error.to_string().contains("x.toml"), "{error}");
        let error = Layers::default().file(Path::new("/nowhere/at/all.toml")).load().expect_err("refused");
        assert!(error.to_string().contains("/nowhere/at/all.toml"), "{error}");
    }
}
