//! Options and output of commands that print lists.

use carillon_proto::DomainId;
use clap::Args;

pub(super) use super::date::format as time;
use super::out;

/// Rows that one call to a router returns.
pub(super) const PAGE: u32 = 1000;

#[derive(Args)]
pub(super) struct Output {
    /// One JSON object a line, for programs.
    #[arg(long)]
    pub(super) json: bool,
    /// host:port of a router; otherwise from the configuration.
    #[arg(long)]
    pub(super) router: Option<String>,
}

#[derive(Args)]
pub(super) struct Page {
    /// How many rows at most.
    #[arg(long, value_name = "ROWS", default_value_t = PAGE, value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) limit: u32,
    #[command(flatten)]
    pub(super) output: Output,
}

#[derive(Args)]
#[group(multiple = false)]
pub(super) struct OfDomain {
    /// Only those of this domain.
    #[arg(long, value_name = "NAME")]
    domain: Option<DomainId>,
    /// Only those of the default domain.
    #[arg(long)]
    default_domain: bool,
}

impl OfDomain {
    /// The name of the domain, empty for the default one. `None`: those of all domains.
    pub(super) fn domain(&self) -> Option<String> {
        let named = self.domain.as_ref().map(|domain| domain.as_str().to_owned());
        named.or(self.default_domain.then(String::new))
    }
}

/// Prints row by row, so that a long list need not fit into memory.
pub(super) struct Table {
    json: bool,
    /// The header until it is printed: before the first row or, without rows, at the end. It is not printed before an
    /// error.
    head: Option<String>,
}

/// Width of all columns but the last one.
const WIDTH: usize = 22;

impl Table {
    pub(super) fn new(json: bool, heads: &[&str]) -> Self {
        Self { json, head: (!json).then(|| line(heads)) }
    }

    pub(super) fn row<T: AsRef<str>>(&mut self, columns: &[T], json: &serde_json::Value) -> anyhow::Result<()> {
        self.head()?;
        if self.json { out::line(format_args!("{json}")) } else { out::line(format_args!("{}", line(columns))) }
    }

    /// Ends the table after the last row.
    pub(super) fn end(&mut self) -> anyhow::Result<()> {
        self.head()
    }

    fn head(&mut self) -> anyhow::Result<()> {
        self.head.take().map_or(Ok(()), out::line)
    }
}

fn line<T: AsRef<str>>(columns: &[T]) -> String {
    let columns: Vec<_> = columns.iter().map(|column| format!("{:<WIDTH$}", column.as_ref())).collect();
    columns.join("  ").trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_stand_under_their_heads() {
        let (head, row) = (line(&["USER", "MADE"]), line(&["bob", "today"]));
        assert_eq!(head.find("MADE"), row.find("today"));
    }
}
