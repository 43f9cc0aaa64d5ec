//! The options by which users of other scenarios are in groups.

use clap::Args;

use crate::scenario::groups::InGroups;

#[derive(Args)]
pub(super) struct Memberships {
    /// So many groups have each of the users as a member; they are made before the measurement
    #[arg(long, default_value_t = 0)]
    groups: usize,
    /// Users in each of these groups
    #[arg(long, default_value_t = 10, requires = "groups")]
    members: usize,
}

impl Memberships {
    /// `None`: users are in no groups.
    pub(super) fn in_groups(&self) -> Option<InGroups> {
        (self.groups > 0).then_some(InGroups { each: self.groups, members: self.members.max(1) })
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::super::arguments::Arguments;

    #[test]
    fn options_of_groups_need_groups_and_no_tickets() {
        let is_taken = |words: &[&str]| Arguments::try_parse_from([&["loadtest"], words].concat()).is_ok();
        assert!(is_taken(&["sign-in", "--groups", "5", "--members", "3", "--up-to-date"]));
        assert!(is_taken(&["idle", "--groups", "5"]));
        assert!(!is_taken(&["idle", "--members", "5"]) && !is_taken(&["sign-in", "--up-to-date"]));
        assert!(!is_taken(&["sign-in", "--groups", "5", "--resume"]));
    }
}
