//! Rounds through the rows of a shard, piece by piece, in search of rows to be removed.

/// The rounds through one shard. What can be found depends on a number that grows with each change, such as the last entry that is
/// applied. A round that found nothing is followed by another one only after a change, so a quiet shard costs nothing.
#[derive(Debug, Default)]
pub(crate) struct Rounds {
    /// The key after which the round goes on; empty at its beginning and end.
    after: Vec<u8>,
    /// The last change when the round began.
    began_at: u64,
    found: bool,
    /// `began_at` of the last round that found nothing.
    nothing_at: Option<u64>,
}

impl Rounds {
    /// Continues the round, or begins another one. False if there is nothing to be found. `changed`: the last change; `None`
    /// if the shard is empty.
    pub(crate) fn go_on(&mut self, changed: Option<u64>) -> bool {
        let Some(changed) = changed else { return false };
        if self.after.is_empty() {
            if self.nothing_at == Some(changed) {
                return false;
            }
            (self.began_at, self.found) = (changed, false);
        }
        true
    }

    pub(crate) fn after(&self) -> &[u8] {
        &self.after
    }

    /// Takes the result of a look: whether it found something, and the key after which the next look begins, which is empty at the
    /// end of the round.
    pub(crate) fn looked(&mut self, found: bool, next: Vec<u8>) {
        self.found |= found;
        self.after = next;
        if self.after.is_empty() && !self.found {
            self.nothing_at = Some(self.began_at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_that_found_nothing_is_followed_by_another_one_after_a_change() {
        let mut rounds = Rounds::default();
        assert!(!rounds.go_on(None), "the shard is empty");
        assert!(rounds.go_on(Some(7)));
        rounds.looked(false, vec![1]);
        assert!(rounds.go_on(Some(8)) && rounds.after() == [1]);
        rounds.looked(false, Vec::new());
        assert!(rounds.go_on(Some(8)), "the change may be before the place where the round was");
        rounds.looked(false, Vec::new());
        assert!(!rounds.go_on(Some(8)));
        assert!(rounds.go_on(Some(9)));
        rounds.looked(true, vec![1]);
        rounds.looked(false, Vec::new());
        assert!(rounds.go_on(Some(9)), "it is not known to be removed");
    }
}
