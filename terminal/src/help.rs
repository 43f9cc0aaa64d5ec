//! The commands and keys that there are, in words.

/// A headline has no text.
pub(crate) const HELP: &[(&str, &str)] = &[
    ("Conversations", ""),
    ("/with USER", "talks with a user"),
    ("/group GROUP", "talks in a group"),
    ("Tab, Shift+Tab", "the next conversation, the one before"),
    ("/who", "who has read the last message of a group"),
    ("/mute [HOURS]", "no bell for so long, or for ever; /unmute"),
    ("/pin", "first in the list; /unpin"),
    ("/archive", "last in the list; /unarchive"),
    ("/unread", "as if it were not read"),
    ("/accept", "takes what a stranger (?) writes; /decline: nothing more comes"),
    ("/block", "nothing of this user comes any more"),
    ("/online [TEXT]", "what contacts see of you; also /away, /busy"),
    ("Messages", ""),
    ("Alt+Up, Alt+Down", "choose a message for the next command; otherwise it is the last one that fits"),
    ("/reply TEXT", "answers it"),
    ("/edit TEXT", "says an own message otherwise"),
    ("/react EMOJI...", "none: takes the reactions back"),
    ("/recall", "takes an own message back; /erase: for good"),
    ("/keep", "pins the message; /unkeep"),
    ("/forward USER", "sends it on; also /forward #GROUP"),
    ("/save [PATH]", "writes its file here, or to a path"),
    ("/report REASON [TEXT]", "tells moderators: spam, abuse, illegal, other"),
    ("/file PATH [| CAPTION]", "sends a file"),
    ("/poll QUESTION | OPTION | OPTION", "asks"),
    ("/vote NUMBER...", "votes in the last poll"),
    ("/later MINUTES TEXT", "sends it then"),
    ("/expire TIME TEXT", "a message that is shown for 30s, 15m, 24h or 7d"),
    ("@NAME", "mentions a member of the group, also behind /reply and /edit"),
    ("//TEXT", "a message that begins with /"),
    ("Keys", ""),
    ("PageUp, PageDown", "older and newer messages; with an empty line also Up, Down, Home, End"),
    ("Esc", "back to the newest message"),
    ("Alt+Enter, Ctrl+J", "a line more"),
    ("Tab behind / or @", "completes a command, or in a group the name of a member"),
    ("Ctrl+A, Ctrl+E", "begin and end of the line; Alt+B, Alt+F: a word back, forth"),
    ("Ctrl+W, Ctrl+U, Ctrl+K", "cut the word before, all before, all behind; Ctrl+Y puts it back"),
    ("Ctrl+L", "draws the screen anew"),
    ("/quit, Ctrl+C", "the end"),
];

const ALL: &[&str] = &[
    "accept",
    "archive",
    "away",
    "block",
    "busy",
    "decline",
    "edit",
    "erase",
    "expire",
    "file",
    "forward",
    "group",
    "help",
    "keep",
    "later",
    "mute",
    "online",
    "pin",
    "poll",
    "quit",
    "react",
    "recall",
    "reply",
    "report",
    "save",
    "unarchive",
    "unkeep",
    "unmute",
    "unpin",
    "unread",
    "vote",
    "who",
    "with",
];

/// The names of all commands, in order.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    ALL.iter().copied()
}

/// The usage of a command, as the help has it.
fn usage(name: &str) -> Option<&'static str> {
    let usages = HELP.iter().map(|(usage, _)| usage.split(',').next().unwrap_or_default());
    let mut usages = usages.filter_map(|usage| Some((usage, usage.strip_prefix('/')?.split(' ').next()?)));
    usages.find(|(_, known)| *known == name).map(|(usage, _)| usage)
}

/// The notice for a command that does not exist, or is used wrongly.
pub(crate) fn wrong(name: &str) -> String {
    if ALL.contains(&name) {
        return usage(name).map_or_else(|| format!("/{name} takes nothing more"), ToOwned::to_owned);
    }
    let nearest =
        names().map(|known| (distance(name, known), known)).min().filter(|(distance, _)| distance * 2 <= name.len());
    match nearest {
        Some((_, known)) => format!("/{name} is no command: did you mean /{known}?"),
        None => format!("/{name} is no command: /help has all; // begins a message that begins with /"),
    }
}

/// Completes one of these names as far as it is clear. `Err`: those that are possible.
pub(crate) fn complete<'a>(begun: &str, names: impl Iterator<Item = &'a str>) -> Result<String, Vec<&'a str>> {
    let possible: Vec<_> = names.filter(|name| name.starts_with(begun)).collect();
    let Some(first) = possible.first() else { return Err(possible) };
    if possible.len() == 1 {
        return Ok(format!("{first} "));
    }
    let is_shared = |length: &usize| possible.iter().all(|name| name.get(..*length) == first.get(..*length));
    let ends = (begun.len() + 1..=first.len()).filter(|length| first.is_char_boundary(*length));
    match ends.take_while(is_shared).last() {
        Some(length) => Ok(first[..length].to_owned()),
        None => Err(possible),
    }
}

/// How many characters differ (Levenshtein).
fn distance(one: &str, other: &str) -> usize {
    let mut row: Vec<usize> = (0..=other.chars().count()).collect();
    for (at, char) in one.chars().take(32).enumerate() {
        let mut before = std::mem::replace(&mut row[0], at + 1);
        for (column, other) in other.chars().enumerate() {
            let replaced = before + usize::from(char != other);
            before = row[column + 1];
            row[column + 1] = replaced.min(before + 1).min(row[column] + 1);
        }
    }
    row[row.len() - 1]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_command_is_in_the_help_and_in_order() {
        let help: String = HELP.iter().map(|(usage, text)| format!("{usage} {text}\n")).collect();
        for name in names().filter(|name| *name != "help") {
            assert!(help.contains(&format!("/{name}")), "{name}");
        }
        assert!(ALL.is_sorted());
    }

    #[test]
    fn who_mistypes_a_command_is_helped() {
        assert_eq!(wrong("mut"), "/mut is no command: did you mean /mute?");
        assert_eq!(wrong("rpely"), "/rpely is no command: did you mean /reply?");
        assert_eq!(
            wrong("etc/passwd"),
            "/etc/passwd is no command: /help has all; // begins a message that begins with /"
        );
        assert_eq!(wrong("edit"), "/edit TEXT");
        assert_eq!(wrong("unpin"), "/unpin takes nothing more");
    }

    #[test]
    fn commands_are_completed_as_far_as_they_are_clear() {
        let complete = |begun| complete(begun, names());
        assert_eq!(complete("mu"), Ok("mute ".to_owned()));
        assert_eq!(complete("un"), Err(vec!["unarchive", "unkeep", "unmute", "unpin", "unread"]));
        assert_eq!(complete("rep"), Err(vec!["reply", "report"]));
        assert_eq!(complete("f"), Err(vec!["file", "forward"]));
        assert_eq!(complete("a"), Err(vec!["accept", "archive", "away"]));
        assert_eq!(complete("rec"), Ok("recall ".to_owned()));
        assert_eq!(complete("xyz"), Err(vec![]));
        let names = ["日本", "日曜"];
        assert_eq!(super::complete("", names.into_iter()), Ok("日".to_owned()));
        assert_eq!(super::complete("日", names.into_iter()), Err(names.to_vec()));
    }
}
