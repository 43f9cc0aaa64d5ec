//! Files that the configuration names: secrets, tokens, keys and certificates.

use std::{fs, io, os::unix::fs::PermissionsExt as _, path::Path};

use carillon_proto::{now_ms, peer::Tier};
use rustls::{
    client::verify_server_name,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
    server::ParsedCertificate,
};

use super::{Looked, report::Check};
use crate::{
    Config, Layers, Role, SecretError, Secrets,
    certificates::{State, files_of, validity_of},
    running::{gateway_config, is_whole, no_operator},
};

pub(super) fn examine(check: &mut Check<'_>, config: &Config, looked: &Looked, file: Option<&Path>) {
    let secrets = Secrets::of(config);
    if rustix::process::geteuid().is_root() {
        check.note(
            "the doctor runs as root, who may read everything: whether the node's user may, too, is not looked at",
        );
    }
    for (setting, path) in secret_files(config, looked, &secrets, file) {
        permissions(check, &setting, &path);
    }
    tokens(check, config, looked, &secrets);
    if looked.roles.contains(&Role::Gateway) {
        let wrong = carillon_gateway::check_files(&gateway_config(config, &looked.roles, &secrets));
        for error in &wrong {
            check.fault(format!("gateway.{error}"), "correct the file or its setting");
        }
        let tls =
            if config.gateway.tls.is_some() { ", and the key of gateway.tls is that of its certificate" } else { "" };
        if wrong.is_empty() {
            check.ok(format!("the keys of users' tokens can be used{tls}"));
        }
    }
    certificates(check, config, looked);
}

/// The files that nobody but their owner should read, with the names of their settings.
fn secret_files(
    config: &Config,
    looked: &Looked,
    secrets: &Secrets,
    file: Option<&Path>,
) -> Vec<(String, std::path::PathBuf)> {
    let mut files = Vec::new();
    let mut add = |setting: &str, path: &Path| {
        if !path.as_os_str().is_empty() {
            files.push((setting.to_owned(), path.to_owned()));
        }
    };
    if let Some(file) = file.filter(|file| has_secrets(file)) {
        add("the configuration, which has secrets,", file);
    }
    let cluster = &config.cluster;
    add("cluster.secret_file", &cluster.secret_file);
    for tier in Tier::ALL {
        add(&format!("cluster.tokens.{tier}_file"), cluster.tokens.of(tier));
    }
    for (what, path) in [("the generated secret", secrets.cluster_path()), ("the generated key", secrets.token_path())]
    {
        if path.exists() {
            add(what, &path);
        }
    }
    if let Some(tls) = &cluster.tls {
        add("cluster.tls.key", &tls.key);
    }
    if looked.roles.contains(&Role::Canary) {
        add("canary.password_file", &config.canary.password_file);
    }
    if looked.roles.contains(&Role::Gateway) {
        if let Some(tls) = &config.gateway.tls {
            add("gateway.tls.key", &tls.key);
        }
        for key in &config.gateway.jwt.keys {
            key.secret_file.iter().for_each(|path| add("gateway.jwt.keys.secret_file", path));
        }
    }
    files
}

/// Whether the file itself has them, and not the environment or a flag.
fn has_secrets(file: &Path) -> bool {
    Layers::default().file(file).load().is_ok_and(|config| {
        !config.cluster.secret.is_empty() || config.gateway.jwt.keys.iter().any(|key| key.secret.is_some())
    })
}

/// A file that can't be read is told by whoever needs it.
fn permissions(check: &mut Check<'_>, setting: &str, path: &Path) {
    let shown = format!("{setting} {}", path.display());
    let mode = match fs::metadata(path) {
        Ok(meta) => meta.permissions().mode() & 0o777,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return,
        Err(error) => return check.not_checked(shown, error),
    };
    if mode & 0o007 != 0 {
        check.warning(
            format!("{shown} can be read or changed by every user of this machine (mode {mode:03o})"),
            "`chmod o= FILE`, and replace what is in it if others may have read it",
        );
    } else if mode & 0o070 != 0 {
        check.note(format!("{shown} can be read or changed by its group (mode {mode:03o})"));
    } else {
        check.ok(format!("{shown} is its owner's alone"));
    }
}

/// Whether the tokens are there that these roles need, and no more than these.
fn tokens(check: &mut Check<'_>, config: &Config, looked: &Looked, secrets: &Secrets) {
    let invalid = secrets.invalid(config);
    for error in &invalid {
        check.fault(error.to_string(), "correct the file or its setting; is this the user of the node?");
    }
    if !invalid.is_empty() {
        return;
    }
    let tiers = looked.tiers(config);
    if tiers.is_empty() {
        return check.ok("this role calls no node, and needs no token");
    }
    let security = match secrets.peer_security(config, &tiers) {
        Ok(security) => security,
        Err(SecretError::NoClusterSecret { .. }) if is_whole(&looked.roles) => {
            return check.note("there is no secret of the cluster yet: the first start makes it");
        }
        Err(error) => return check.fault(error.to_string(), "give this node the tokens of its tier, or the secret"),
    };
    let known: Vec<&str> = Tier::ALL.iter().filter(|tier| security.knows(**tier)).map(|tier| tier.as_str()).collect();
    check.ok(format!("tokens are there of these tiers: {}", known.join(", ")));
    if let Some(why) = no_operator(&looked.roles, &security) {
        check.note(why);
    }
    if looked.roles == [Role::Gateway] && security.knows(Tier::Storage) {
        check.note(
            "this gateway has the secret of the whole cluster, although cluster.tokens.gateway_file would be enough for it",
        );
    }
    match &config.cluster.tls {
        Some(_) => check.ok("the certificate, the key and the authorities of cluster.tls belong together"),
        None => check.note("cluster.tls is off: tokens and messages cross the network between nodes in clear"),
    }
}

fn certificates(check: &mut Check<'_>, config: &Config, looked: &Looked) {
    for file in files_of(config, &looked.roles) {
        let shown = format!("certificate {} (for {})", file.path.display(), file.used_for);
        let validity = match validity_of(&file.path) {
            Ok(validity) => validity,
            Err(why) => {
                check.fault(format!("{shown} {why}"), "correct the file or its setting");
                continue;
            }
        };
        let state = State::of(validity, now_ms() / 1000);
        match state.told() {
            Some(what) if state.is_wrong() => check.fault(format!("{shown} {what}"), "replace it, or set the clock"),
            Some(what) => check.warning(format!("{shown} {what}"), "renew it"),
            None => {
                let days = validity.not_after_s.saturating_sub(now_ms() / 1000) / 86_400;
                check.ok(format!("{shown} is valid for {days} days"));
            }
        }
    }
    for own in looked.own_addresses(config) {
        own_name(check, config, &own);
    }
}

/// Whether the certificate carries the name by which others check this node.
fn own_name(check: &mut Check<'_>, config: &Config, address: &str) {
    let Some(tls) = &config.cluster.tls else { return };
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host).trim_matches(['[', ']']);
    let name = if tls.server_name.is_empty() { host } else { &tls.server_name };
    let shown = format!("certificate {}", tls.certificate.display());
    match carries(&tls.certificate, name) {
        Ok(true) => check.ok(format!("{shown} is for {name}, by which other nodes check it")),
        Ok(false) => check.fault(
            format!("{shown} is not for {name}, by which other nodes check this one ({address})"),
            "make it for that name, or set cluster.tls.server_name on all nodes to the one that it has",
        ),
        Err(why) => check.not_checked(format!("{shown}: name"), why),
    }
}

fn carries(path: &Path, name: &str) -> Result<bool, String> {
    let pem = fs::read(path).map_err(|error| error.to_string())?;
    let first = CertificateDer::from_pem_slice(&pem).map_err(|error| error.to_string())?;
    let parsed = ParsedCertificate::try_from(&first).map_err(|error| error.to_string())?;
    let name = ServerName::try_from(name).map_err(|error| error.to_string())?;
    Ok(verify_server_name(&parsed, &name).is_ok())
}

#[cfg(test)]
mod tests {
    use super::{
        super::report::{Report, Severity},
        *,
    };

    #[test]
    fn what_others_may_read_is_told() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("secret");
        fs::write(&path, "x").expect("written");
        for (mode, severity) in
            [(0o600, Severity::Ok), (0o400, Severity::Ok), (0o440, Severity::Note), (0o644, Severity::Warning)]
        {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("changed");
            let mut report = Report::default();
            permissions(&mut report.check("files"), "cluster.secret_file", &path);
            assert_eq!(report.worst(), severity, "{mode:o}: {report}");
        }
    }

    #[test]
    fn a_certificate_carries_its_names_and_no_others() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("certificate.pem");
        let key = rcgen::KeyPair::generate().expect("key");
        let params = rcgen::CertificateParams::new(vec!["a.test".to_owned(), "127.0.0.9".to_owned()]).expect("names");
        fs::write(&path, params.self_signed(&key).expect("signed").pem()).expect("written");
        assert_eq!(carries(&path, "a.test"), Ok(true));
        assert_eq!(carries(&path, "127.0.0.9"), Ok(true));
        assert_eq!(carries(&path, "b.test"), Ok(false));
        assert_eq!(carries(&path, "127.0.0.8"), Ok(false));
    }
}
