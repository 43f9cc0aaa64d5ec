//! How lists are asked for and printed.

use clap::Args;

pub(super) use super::date::format as time;
use super::out;

/// Rows that one call to a router brings.
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
    /// How many at most.
    #[arg(long, default_value_t = PAGE, value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) limit: u32,
    #[command(flatten)]
    pub(super) output: Output,
}

/// Prints row by row, so that a long list need not fit into memory.
pub(super) struct Table {
    json: bool,
}

/// Of all columns but the last one.
const WIDTH: usize = 22;

impl Table {
    pub(super) fn new(json: bool, heads: &[&str]) -> anyhow::Result<Self> {
        if !json {
            out::line(format_args!("{}", line(heads)))?;
        }
        Ok(Self { json })
    }

    pub(super) fn row<T: AsRef<str>>(&mut self, columns: &[T], json: &serde_json::Value) -> anyhow::Result<()> {
        if self.json { out::line(format_args!("{json}")) } else { out::line(format_args!("{}", line(columns))) }
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
