//! What the doctor has found: one line a check.

use std::fmt;

use serde::Serialize;

/// In the order of what counts more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(crate) enum Severity {
    #[serde(rename = "ok")]
    Ok,
    /// Worth knowing; nothing has to be done.
    #[serde(rename = "note")]
    Note,
    /// Nobody knows whether it is well.
    #[serde(rename = "not checked")]
    NotChecked,
    #[serde(rename = "warning")]
    Warning,
    /// The node does not start or work like this.
    #[serde(rename = "fault")]
    Fault,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    pub(crate) check: &'static str,
    pub(crate) severity: Severity,
    pub(crate) found: String,
    /// What to do about it; empty if there is nothing to do.
    #[serde(rename = "do", skip_serializing_if = "String::is_empty")]
    pub(crate) remedy: String,
}

/// The findings of one check, or of all of them.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) findings: Vec<Finding>,
}

/// Adds the findings of one check.
pub(super) struct Check<'a> {
    report: &'a mut Report,
    name: &'static str,
}

impl Report {
    pub(super) fn check(&mut self, name: &'static str) -> Check<'_> {
        Check { report: self, name }
    }

    pub(crate) fn worst(&self) -> Severity {
        self.findings.iter().map(|finding| finding.severity).max().unwrap_or(Severity::NotChecked)
    }

    pub(crate) fn count(&self, severity: Severity) -> usize {
        self.findings.iter().filter(|finding| finding.severity == severity).count()
    }
}

impl Check<'_> {
    pub(super) fn ok(&mut self, found: impl Into<String>) {
        self.add(Severity::Ok, found.into(), String::new());
    }

    pub(super) fn note(&mut self, found: impl Into<String>) {
        self.add(Severity::Note, found.into(), String::new());
    }

    pub(super) fn not_checked(&mut self, what: impl fmt::Display, why: impl fmt::Display) {
        self.add(Severity::NotChecked, format!("{what}: {why}"), String::new());
    }

    pub(super) fn warning(&mut self, found: impl Into<String>, remedy: impl Into<String>) {
        self.add(Severity::Warning, found.into(), remedy.into());
    }

    pub(super) fn fault(&mut self, found: impl Into<String>, remedy: impl Into<String>) {
        self.add(Severity::Fault, found.into(), remedy.into());
    }

    pub(super) fn add(&mut self, severity: Severity, found: String, remedy: String) {
        // One line each, and nothing that moves a terminal's cursor, whatever a file or another node has said.
        let is_between = |c: char| c.is_whitespace() || c.is_control();
        let line = |text: String| text.split(is_between).filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ");
        let (found, remedy) = (line(found), line(remedy));
        self.report.findings.push(Finding { check: self.name, severity, found, remedy });
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ok => "ok",
            Self::Note => "note",
            Self::NotChecked => "not checked",
            Self::Warning => "warning",
            Self::Fault => "fault",
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Finding { check, severity, found, remedy } in &self.findings {
            write!(f, "{severity:<11}  {check:<13}  {found}")?;
            if !remedy.is_empty() {
                write!(f, "; to do: {remedy}")?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_checked_counts_more_than_what_is_well() {
        let mut report = Report::default();
        assert_eq!(report.worst(), Severity::NotChecked, "nothing was looked at");
        report.check("disk").ok("well");
        assert_eq!(report.worst(), Severity::Ok);
        report.check("disk").not_checked("fsync", "no such\n\u{1b}folder");
        report.check("disk").note("old");
        assert_eq!(report.worst(), Severity::NotChecked);
        report.check("ports").fault("taken", "stop it");
        assert_eq!(report.worst(), Severity::Fault);
        let lines = report.to_string();
        assert_eq!(lines.lines().count(), 4, "{lines}");
        assert!(lines.contains("not checked  disk           fsync: no such folder\n"), "{lines}");
        assert!(lines.contains("fault        ports          taken; to do: stop it\n"), "{lines}");
    }
}
