//! Members of a group who are named in a text by `@NAME`.

use carillon_proto::pb::client::{MembersChange, Mentions, members_change::Kind};

/// Most members of a group who can be named: the first ones.
pub(crate) const MEMBERS: usize = 1024;
/// Most users whom a message mentions by name: the service takes no more.
const MOST: usize = 64;

/// The mentions of a text, by the names of the members. `None`: it names none of them.
pub(crate) fn of(text: &str, members: &[String]) -> Option<Box<Mentions>> {
    let text = text.to_lowercase();
    let mut users: Vec<String> = Vec::new();
    for (at, _) in text.match_indices('@').filter(|(at, _)| begins(&text[..*at])) {
        let rest = &text[at + 1..];
        let is_named = |member: &&String| rest.strip_prefix(member.as_str()).is_some_and(ends);
        if let Some(member) = members.iter().filter(is_named).max_by_key(|member| member.len())
            && users.len() < MOST
            && !users.contains(member)
        {
            users.push(member.clone());
        }
    }
    (!users.is_empty()).then(|| Box::new(Mentions { users, ..Mentions::default() }))
}

/// Keeps the members as they are after the change. `but`: the user, who is not among them.
pub(crate) fn follow(members: &mut Vec<String>, change: &MembersChange, but: &str) {
    match change.kind() {
        Kind::Added | Kind::Joined => {
            for user in change.users.iter().filter(|user| *user != but) {
                if members.len() < MEMBERS && !members.contains(user) {
                    members.push(user.clone());
                }
            }
        }
        Kind::Left | Kind::Removed | Kind::Banned => members.retain(|member| !change.users.contains(member)),
        Kind::Unspecified | Kind::Invited | Kind::Pardoned | Kind::Role | Kind::Muted => {}
    }
}

/// The beginning of a name behind the last `@`, if the text ends in one.
pub(crate) fn begun(text: &str) -> Option<&str> {
    let (before, name) = text.rsplit_once('@')?;
    (begins(before) && !name.contains(char::is_whitespace)).then_some(name)
}

/// An `@` behind this text begins a name: it is not the middle of an address.
fn begins(before: &str) -> bool {
    before.chars().next_back().is_none_or(|char| !char.is_alphanumeric())
}

/// A name ends before this text.
fn ends(behind: &str) -> bool {
    let mut chars = behind.chars();
    match chars.next() {
        None => true,
        Some('.') => chars.next().is_none_or(|char| !char.is_alphanumeric()),
        Some(char) => !char.is_alphanumeric() && !matches!(char, '-' | '_' | '@'),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_named_in_full_behind_an_at_sign() {
        let members = ["bob", "bob.smith", "carol@partner.example", "日本"].map(str::to_owned);
        let named = |text| of(text, &members).map_or_else(Vec::new, |mentions| mentions.users);
        assert_eq!(named("@bob: tea? (@Carol@partner.example, @bob)"), ["bob", "carol@partner.example"]);
        assert_eq!(named("ask @bob.smith."), ["bob.smith"]);
        assert_eq!(named("ask @bob."), ["bob"]);
        assert_eq!(named("@日本"), ["日本"]);
        for nobody in ["bob", "mail me@bob", "@bobby", "@bob.smithers", "@bob-x", "@bob@partner.example", "@", "@dave"]
        {
            assert_eq!(of(nobody, &members), None, "{nobody}");
        }
        let many: Vec<_> = (0..MOST + 6).map(|number| format!("user{number}")).collect();
        let all: String = many.iter().map(|name| format!("@{name} ")).collect();
        assert_eq!(of(&all, &many).map(|mentions| mentions.users.len()), Some(MOST));
    }

    #[test]
    fn a_name_is_begun_behind_the_last_at_sign() {
        assert_eq!((begun("hello @bo"), begun("@"), begun("@carol@par")), (Some("bo"), Some(""), None));
        assert_eq!((begun("hello @bo "), begun("me@bo"), begun("hello")), (None, None, None));
    }
}
