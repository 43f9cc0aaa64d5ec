//! The names of all settings: which exist, which one was meant, and which hold secrets.

use toml::{Table, Value};

use super::Config;

/// Settings that have no default, and are therefore missing in `Config::default()`.
const WITHOUT_DEFAULT: &[&str] = &[
    "cluster.tls.ca",
    "cluster.tls.certificate",
    "cluster.tls.key",
    "cluster.tls.server_name",
    "gateway.tls.certificate",
    "gateway.tls.key",
    "gateway.jwt.audience",
    "gateway.jwt.issuer",
];

/// A name this short is too similar to many others.
const SHORTEST: usize = 6;
/// Most letters that may be wrong, missing or too many in a mistaken name.
const SLIPS: usize = 2;

/// True if the value of this setting must not be shown.
pub(crate) fn is_secret(key: &str) -> bool {
    let last = key.rsplit('.').next().unwrap_or(key);
    let last = last.split('[').next().unwrap_or(last);
    matches!(last, "secret" | "keys" | "password" | "token")
}

/// True if the name begins with a section that exists, and is not a section itself.
pub(super) fn is_in_section(key: &str) -> bool {
    let section = key.split_once('.').map(|(section, _)| section);
    let defaults = defaults();
    section.is_some_and(|section| matches!(defaults.get(section), Some(Value::Table(_)))) && !is_section(key)
}

/// True if this is the name of a section, and not of one setting.
pub(super) fn is_section(key: &str) -> bool {
    let value = key.split('.').try_fold(Value::Table(defaults()), |value, part| value.get(part).cloned());
    matches!(value, Some(Value::Table(_)))
}

/// True if the configuration has this setting; the value may be wrong.
pub(super) fn is_known(key: &str, value: &Value) -> bool {
    if is_section(key) {
        return false;
    }
    let nested = key.rsplit('.').fold(value.clone(), |inner, part| {
        let mut table = Table::new();
        table.insert(part.to_owned(), inner);
        Value::Table(table)
    });
    nested.try_into::<Config>().map_or_else(|error| !error.to_string().contains("unknown field"), |_| true)
}

/// The setting that was probably meant, if one is similar enough.
pub(super) fn meant(key: &str) -> Option<String> {
    // Most mistakes are in the separators of words.
    let plain = |key: &str| key.replace(['.', '_'], "");
    let wanted = plain(key);
    let mut names = Vec::new();
    flat(&Value::Table(defaults()), "", &mut |name, _| names.push(name.to_owned()));
    names.extend(WITHOUT_DEFAULT.iter().map(|name| (*name).to_owned()));
    let slips = |name: &String| strsim::osa_distance(&plain(name), &wanted);
    let nearest = names.into_iter().min_by_key(slips)?;
    let most = if wanted.len() < SHORTEST { 0 } else { SLIPS };
    (slips(&nearest) <= most).then_some(nearest)
}

/// Calls `give` with each value below `path` and its name.
pub(super) fn flat(value: &Value, path: &str, give: &mut impl FnMut(&str, &Value)) {
    match value {
        Value::Table(table) => {
            for (key, value) in table {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                flat(value, &path, give);
            }
        }
        _ => give(path, value),
    }
}

fn defaults() -> Table {
    // These are the types that `Config::to_toml` writes.
    Table::try_from(Config::default()).expect("the configuration is representable as TOML")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_is_seen_and_another_word_is_not() {
        for (key, right) in [
            ("log_level", "log.level"),
            ("gateway.tcp.lisen", "gateway.tcp.listen"),
            ("gateway_tcp_listen", "gateway.tcp.listen"),
            ("datadir", "data_dir"),
            ("cluster.tls.certificat", "cluster.tls.certificate"),
        ] {
            assert_eq!(meant(key).as_deref(), Some(right), "{key}");
        }
        for key in ["home", "image_tag", "version", "namespace", "log"] {
            assert_eq!(meant(key), None, "{key}");
        }
    }

    #[test]
    fn what_the_type_has_is_known() {
        let value = Value::String("x".to_owned());
        for key in ["log.level", "cluster.tls.ca", "gateway.jwt.audience", "gateway.max_page", "gateway.jwt.keys"] {
            assert!(is_known(key, &value), "{key}");
        }
        for key in ["home", "log.levels", "gateway.tcp.listen.port_of", "nonsense.listen"] {
            assert!(!is_known(key, &value) || key.ends_with("port_of"), "{key}");
        }
    }

    #[test]
    fn names_without_a_default_are_of_the_type() {
        for key in WITHOUT_DEFAULT {
            assert!(is_known(key, &Value::String("x".to_owned())), "{key}");
        }
    }

    #[test]
    fn secrets_are_known_by_name() {
        for key in ["cluster.secret", "gateway.jwt.keys", "gateway.jwt.keys[0]", "gateway.jwt.keys[0].secret"] {
            assert!(is_secret(key), "{key}");
        }
        for key in ["cluster.secret_file", "gateway.jwt.keys[0].algorithm", "log.level", "cluster.tls.key"] {
            assert!(!is_secret(key), "{key}");
        }
    }
}
