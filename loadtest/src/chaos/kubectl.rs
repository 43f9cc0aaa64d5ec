//! `kubectl`, for one namespace of one context: nothing else is ever named to it.

use std::{ffi::OsString, process::Stdio, time::Duration};

use serde::{Deserialize, de::DeserializeOwned};

/// A program that the operator has, with his rights.
#[derive(Debug, Clone)]
pub(crate) struct Kubectl {
    program: OsString,
    context: String,
    namespace: String,
}

#[derive(Debug, thiserror::Error)]
#[error("{command}: {why}")]
pub(crate) struct KubectlError {
    command: String,
    why: String,
}

/// How long a question may take.
const ASK: Duration = Duration::from_secs(30);

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct Metadata {
    #[serde(default)]
    pub(super) name: String,
    #[serde(default)]
    pub(super) labels: std::collections::BTreeMap<String, String>,
    #[serde(default, rename = "deletionTimestamp")]
    pub(super) deleted: Option<String>,
}

#[derive(Deserialize)]
struct Items<T> {
    items: Vec<T>,
}

/// A name as Kubernetes gives it: no option, and no other object's.
fn is_name(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.');
    let ends = |at: Option<&u8>| at.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    bytes.len() <= 253 && bytes.iter().copied().all(plain) && ends(bytes.first()) && ends(bytes.last())
}

impl Kubectl {
    /// Asks which context is the present one.
    pub(crate) async fn of_present_context(program: OsString, namespace: &str) -> Result<Self, KubectlError> {
        let (command, why) = ("--kubernetes".to_owned(), format!("{namespace:?} is no name of a namespace"));
        if !is_name(namespace) {
            return Err(KubectlError { command, why });
        }
        let context = run(&program, &["config", "current-context"], ASK).await?.trim().to_owned();
        Ok(Self { program, context, namespace: namespace.to_owned() })
    }

    /// `CONTEXT/NAMESPACE`.
    pub(crate) fn place(&self) -> String {
        format!("{}/{}", self.context, self.namespace)
    }

    pub(super) fn context(&self) -> &str {
        &self.context
    }

    pub(super) fn namespace(&self) -> &str {
        &self.namespace
    }

    fn full<'a>(&'a self, arguments: &[&'a str]) -> Vec<&'a str> {
        [&["--context", &self.context, "--namespace", &self.namespace], arguments].concat()
    }

    /// The command as it is run.
    pub(super) fn line(&self, arguments: &[&str]) -> String {
        format!("{} {}", self.program.to_string_lossy(), self.full(arguments).join(" "))
    }

    pub(super) async fn run(&self, arguments: &[&str], patience: Duration) -> Result<String, KubectlError> {
        run(&self.program, &self.full(arguments), patience).await
    }

    pub(super) async fn ask<T: DeserializeOwned>(&self, arguments: &[&str]) -> Result<T, KubectlError> {
        let text = self.run(arguments, ASK).await?;
        let unreadable =
            |error: serde_json::Error| KubectlError { command: self.line(arguments), why: error.to_string() };
        serde_json::from_str(&text).map_err(unreadable)
    }

    /// The objects of a kind with these labels.
    pub(super) async fn list<T: DeserializeOwned>(&self, kind: &str, labels: &str) -> Result<Vec<T>, KubectlError> {
        Ok(self.ask::<Items<T>>(&["get", kind, "--selector", labels, "--output", "json"]).await?.items)
    }

    pub(super) fn failed(&self, what: &str, why: impl Into<String>) -> KubectlError {
        KubectlError { command: what.to_owned(), why: why.into() }
    }

    /// Fails if this is no name that Kubernetes would give.
    pub(super) fn name(&self, name: String) -> Result<String, KubectlError> {
        if is_name(&name) { Ok(name) } else { Err(self.failed("kubectl", format!("{name:?} is no name of an object"))) }
    }
}

async fn run(program: &OsString, arguments: &[&str], patience: Duration) -> Result<String, KubectlError> {
    let command = format!("{} {}", program.to_string_lossy(), arguments.join(" "));
    let failed = |why: String| KubectlError { command: command.clone(), why };
    let mut kubectl = tokio::process::Command::new(program);
    kubectl.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(patience, kubectl.output()).await;
    let output = output.map_err(|_| failed(format!("no end within {patience:?}")))?;
    let output = output.map_err(|error| failed(error.to_string()))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(failed(format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_never_an_option_or_a_path() {
        for name in ["carillon", "carillon-storage-0", "a.b", "9"] {
            assert!(is_name(name), "{name}");
        }
        for wrong in ["", "-n", "--all", "a/b", "A", "a b", "a\nb", "pod,job", "a-"] {
            assert!(!is_name(wrong), "{wrong:?}");
        }
    }
}
