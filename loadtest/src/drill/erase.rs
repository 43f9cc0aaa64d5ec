//! A user is exported and erased while others write.

use std::{
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use serde_json::Value;
use tokio::time::sleep;

use super::{
    letters::{Letter, difference},
    report::{Erased, Exported},
    run::{Drill, Phase, target},
    search::files_with,
    size::Size,
    traffic::Traffic,
};
use crate::cluster::Role;

/// The exit code of an erasure that is under way.
const UNDER_WAY: i32 = 5;
const PAUSE: Duration = Duration::from_secs(1);

pub(super) async fn run(drill: &mut Drill<'_>) -> anyhow::Result<()> {
    let (options, patience) = (drill.options, drill.options.load.patience);
    let traffic = Traffic::start(&drill.cluster, &drill.load_of(Phase::Erase), &options.load).await?;
    let done = export_and_erase(drill, &traffic).await;
    let verdict = traffic.finish(patience).await?;
    drill.report.take("erase", &verdict);
    done?;
    others_are_there(drill).await
}

async fn export_and_erase(drill: &mut Drill<'_>, traffic: &Traffic) -> anyhow::Result<()> {
    let expected = drill.letters.expected(false);
    let found = export(drill, &drill.letters.leaver.clone()).await?;
    if let Some(what) = difference(&expected, &found) {
        drill.report.violations.push(format!("export of {}: {what}", drill.letters.leaver));
    }
    if let Some(filler) = drill.witnesses.first() {
        let (user, (least, most)) = (filler.user(0), filler.messages_of(0));
        let found = export(drill, &user).await?;
        let in_order = found.iter().zip(1..).all(|(letter, seq)| letter.seq == seq);
        if !in_order || !(least..=most).contains(&(found.len() as u64)) {
            let what = format!("{} messages, in order: {in_order}; {least} were accepted", found.len());
            drill.report.violations.push(format!("export of {user}: {what}"));
        }
    }
    let files_before: Vec<_> = search(drill).await?.into_iter().map(|files| files.len()).collect();
    if files_before.iter().all(|files| *files == 0) {
        // Bytes that are not found before the erasure are not found after it either, whatever was erased.
        drill
            .report
            .missed
            .push("erase: no file had what the user said, so nothing can be said of the disks".to_owned());
    }
    let beginning = traffic.begin();
    let began = Instant::now();
    let seconds = ordered(drill).await?;
    let restarted = drill.restart_those_named(&seconds.1).await?;
    until_done(drill, began).await?;
    let done_seconds = began.elapsed().as_secs_f64();
    let during = traffic.end(beginning, drill.options.load.patience).await?;
    let seconds = seconds.0.as_secs_f64();
    drill.say(&format!("erased: {seconds:.1} s, and after {} starts {done_seconds:.1} s", restarted.len()));
    for path in search(drill).await?.into_iter().flatten() {
        drill.report.violations.push(format!("erase: {} has what an erased user said", path.display()));
    }
    drill.report.erasure = Some(Erased { seconds, restarted, done_seconds, files_before, during });
    Ok(())
}

/// Exports a user, and returns the messages.
async fn export(drill: &mut Drill<'_>, user: &str) -> anyhow::Result<Vec<Letter>> {
    let folder = drill.options.folder.join("exports").join(user);
    let to = folder.to_string_lossy().into_owned();
    let began = Instant::now();
    let patience = drill.options.load.change_patience;
    drill.cluster.operator().run(&["user", "export", user, "--to", &to], patience).await?.done()?;
    let seconds = began.elapsed().as_secs_f64();
    let manifest = folder.join("manifest.json");
    ensure!(manifest.exists(), "the export of {user} is not whole: there is no {}", manifest.display());
    let text = fs::read_to_string(folder.join("export.jsonl"))?;
    let found = messages(&text)?;
    fs::remove_dir_all(&folder)?;
    let (messages, bytes) = (found.len() as u64, Size(text.len() as u64));
    drill.report.exports.push(Exported { user: user.to_owned(), seconds, messages, bytes });
    Ok(found)
}

/// The messages among the lines of an export.
fn messages(lines: &str) -> anyhow::Result<Vec<Letter>> {
    let (mut found, mut end) = (Vec::new(), None);
    for line in lines.lines() {
        let line: Value = serde_json::from_str(line).context("a line of the export is no JSON")?;
        match line["kind"].as_str() {
            Some("message") => found.push(Letter {
                seq: line["position"].as_u64().context("a position")?,
                sender: line["from"].as_str().context("a sender")?.to_owned(),
                text: line["content"]["text"]["body"].as_str().map(str::to_owned),
            }),
            Some("end") => end = Some((line["messages"].as_u64(), line["first"].as_u64(), line["last"].as_u64())),
            _ => {}
        }
    }
    let told = end.context("the export has no line that says that it is whole")?;
    let count = found.len() as u64;
    ensure!(told == (Some(count), Some(1), Some(count)), "the export has {count} messages, and says {told:?}");
    Ok(found)
}

/// Orders the erasure and waits for it. How long it took, and what the command said.
async fn ordered(drill: &Drill<'_>) -> anyhow::Result<(Duration, String)> {
    let (began, patience) = (Instant::now(), drill.options.load.change_patience);
    let router = drill.cluster.nodes[drill.cluster.of(Role::Router)[0]].address();
    let timeout = patience.as_secs().to_string();
    let arguments = ["user", "erase", &drill.letters.leaver, "--router", &router, "--timeout", &timeout];
    // The command's own end comes first.
    let told = drill.cluster.operator().run(&arguments, patience + Duration::from_secs(30)).await?;
    match told.code() {
        Some(0) => Ok((began.elapsed(), String::new())),
        Some(UNDER_WAY) if told.errors.contains("started again") => Ok((began.elapsed(), told.errors)),
        _ => Err(told.failed().into()),
    }
}

impl Drill<'_> {
    /// Stops and starts the storage nodes whose addresses stand in what the command said, one after the other.
    async fn restart_those_named(&mut self, said: &str) -> anyhow::Result<Vec<String>> {
        let (patience, mut restarted) = (self.options.load.patience, Vec::new());
        // Earlier lines, from the time of the erasure, name nodes, too.
        let last = said.lines().last().unwrap_or_default();
        for at in self.cluster.of(Role::Storage) {
            let node = &mut self.cluster.nodes[at];
            if last.contains(&node.address()) {
                node.signal("TERM")?;
                node.wait_end(patience).await?;
                node.start()?;
                node.wait_ready(patience).await?;
                restarted.push(node.name().to_owned());
            }
        }
        Ok(restarted)
    }
}

/// Asks until nothing is on any disk.
async fn until_done(drill: &Drill<'_>, began: Instant) -> anyhow::Result<()> {
    let router = drill.cluster.nodes[drill.cluster.of(Role::Router)[0]].address();
    let patience = drill.options.load.change_patience;
    loop {
        let arguments = ["user", "erase", &drill.letters.leaver, "--router", &router, "--status"];
        let told = drill.cluster.operator().run(&arguments, patience).await?;
        match told.code() {
            Some(0) => return Ok(()),
            Some(UNDER_WAY | 1) if began.elapsed() < patience => sleep(PAUSE).await,
            _ => return Err(told.failed().into()),
        }
    }
}

/// The files of each storage node's data folder in which the leaver's text stands.
async fn search(drill: &Drill<'_>) -> anyhow::Result<Vec<Vec<PathBuf>>> {
    let folders: Vec<_> = drill.cluster.of(Role::Storage).into_iter().map(|at| drill.cluster.stored(at, "")).collect();
    let marker = drill.letters.marker.clone();
    let searched = tokio::task::spawn_blocking(move || {
        folders.iter().map(|folder| files_with(folder, marker.as_bytes())).collect::<Result<Vec<_>, _>>()
    });
    searched.await?.context("the data folders are not searched")
}

/// The messages of the erased user keep their places, and everything else is as it was.
async fn others_are_there(drill: &mut Drill<'_>) -> anyhow::Result<()> {
    let (target, cluster) = (target(&drill.cluster), &drill.cluster);
    let token = cluster.token(&drill.letters.friend);
    let wrong = drill.letters.check(&drill.letters.friend, true, &target, &token, &drill.tasks).await?;
    drill.report.violations.extend(wrong.map(|wrong| format!("erase: {wrong}")));
    let began = Instant::now();
    let mut read = 0;
    for witness in &drill.witnesses {
        let findings = witness.read(&target, |user| cluster.token(user), &drill.tasks).await?;
        read += findings.summary.read_back;
        drill.report.take_findings("after erase", findings);
    }
    drill.say(&format!("{read} copies of messages of others read back in {:.1} s", began.elapsed().as_secs_f64()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_export_is_whole_only_with_its_end_and_as_many_messages_as_that_says() {
        let message = |seq: u64| {
            format!(r#"{{"kind":"message","position":{seq},"from":"a","content":{{"text":{{"body":"t{seq}"}}}}}}"#)
        };
        let end = |messages: u64| format!(r#"{{"kind":"end","messages":{messages},"first":1,"last":{messages}}}"#);
        let two = format!("{}\n{}\n", message(1), message(2));
        let found = messages(&format!("{two}{}", end(2))).expect("whole");
        assert_eq!(found[1], Letter { seq: 2, sender: "a".into(), text: Some("t2".into()) });
        assert!(messages(&two).is_err());
        assert!(messages(&format!("{two}{}", end(3))).is_err());
    }
}
