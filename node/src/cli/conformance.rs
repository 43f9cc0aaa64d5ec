//! `carillon conformance`: plays scenes to a client of the native protocol.

use std::{collections::BTreeSet, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::bail;
use carillon_conformance::{Client, Played, Scene, Verdict, play};
use clap::Args;
use futures_util::StreamExt as _;

use super::{credential::parse_duration, out};

/// Plays scenes to a client of the native protocol, as its gateway, and says which rules it breaks. docs/examples/README.md says how to
/// write a driver. Exits with 0 if no scene failed, 1 if one did, 2 for wrong arguments.
#[derive(Args)]
pub(super) struct Conformance {
    /// A scene, or a folder with scenes. Otherwise the program's own, which are those of docs/examples.
    path: Option<PathBuf>,
    /// The client's driver, as a line for the shell. It reads what the user does from standard input, and prints what the user sees.
    #[arg(long, value_name = "COMMAND", required_unless_present = "list")]
    client: Option<String>,
    /// Plays this scene only; may be repeated.
    #[arg(long, value_name = "SCENE", value_delimiter = ',')]
    only: Vec<String>,
    /// Lists the scenes with their rules, and plays none.
    #[arg(long)]
    list: bool,
    /// How long a step waits for what it expects.
    #[arg(long, value_name = "TIME", default_value = "15s", value_parser = parse_duration)]
    patience: Duration,
    /// Scenes that are played at the same time, each to a client of its own.
    #[arg(long, value_name = "NUMBER", default_value = "4", value_parser = clap::value_parser!(u16).range(1..=64))]
    jobs: u16,
}

impl Conformance {
    pub(super) async fn run(self) -> anyhow::Result<ExitCode> {
        let scenes = self.scenes()?;
        let Some(client) = self.client.filter(|_| !self.list) else {
            let longest = scenes.iter().map(|scene| scene.name.len()).max().unwrap_or_default();
            for Scene { name, rule, says, .. } in &scenes {
                out::line(format_args!("{name:longest$}  {rule}: {says}"))?;
            }
            return Ok(ExitCode::SUCCESS);
        };
        let (client, patience) = (&Client::Command(client), self.patience);
        let played = scenes.iter().map(|scene| async move { (scene, play(scene, client, patience).await) });
        let mut played = futures_util::stream::iter(played).buffered(usize::from(self.jobs));
        let (mut passed, mut failed, mut skipped) = (0, 0, 0);
        while let Some((scene, Played { verdict, told })) = played.next().await {
            out::line(format_args!("{}: {verdict}", scene.name))?;
            match verdict {
                Verdict::Passed => passed += 1,
                Verdict::Skipped { .. } => skipped += 1,
                Verdict::Failed { .. } => {
                    failed += 1;
                    out::line(format_args!("    the rule ({:?}): {}", scene.rule, scene.says))?;
                    for line in told {
                        out::line(format_args!("    {line}"))?;
                    }
                }
            }
        }
        out::line(format_args!("{passed} passed, {failed} failed, {skipped} skipped"))?;
        Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    fn scenes(&self) -> anyhow::Result<Vec<Scene>> {
        let mut scenes = match &self.path {
            Some(path) => carillon_conformance::read(path)?,
            None => carillon_conformance::own()?,
        };
        let known: BTreeSet<_> = scenes.iter().map(|scene| scene.name.clone()).collect();
        if let Some(unknown) = self.only.iter().find(|name| !known.contains(*name)) {
            bail!("there is no scene {unknown:?}: see --list");
        }
        scenes.retain(|scene| self.only.is_empty() || self.only.contains(&scene.name));
        if scenes.is_empty() {
            bail!("there is no scene to play");
        }
        Ok(scenes)
    }
}
