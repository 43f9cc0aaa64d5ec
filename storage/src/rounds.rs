//! Rounds through the rows of a shard, piece by piece, in search of what is to be removed.

/// Of one shard. What there is to be found follows from what is applied, the shard's clock included: after a round that found
/// nothing, the next one begins when something has been applied. A quiet shard costs nothing.
#[derive(Debug, Default)]
pub(crate) struct Rounds {
    /// Key after which the round goes on; empty at its begin and end.
    after: Vec<u8>,
    /// The last entry that was applied when the round began.
    began_at: u64,
    found: bool,
    /// The same of the last round that found nothing.
    nothing_at: Option<u64>,
}

impl Rounds {
    /// Goes on with the round, or begins another one. False if there is nothing to be found. `applied`: the last entry that is
    /// known to be applied.
    pub(crate) fn go_on(&mut self, applied: Option<u64>) -> bool {
        let Some(applied) = applied else { return false };
        if self.after.is_empty() {
            if self.nothing_at == Some(applied) {
                return false;
            }
            (self.began_at, self.found) = (applied, false);
        }
        true
    }

    pub(crate) fn after(&self) -> &[u8] {
        &self.after
    }

    /// What a look brought, and the key after which the next one begins; empty: all has been looked at.
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
    fn a_round_that_found_nothing_is_followed_by_another_one_when_something_was_applied() {
        let mut rounds = Rounds::default();
        assert!(!rounds.go_on(None), "the shard is empty");
        assert!(rounds.go_on(Some(7)));
        rounds.looked(false, vec![1]);
        assert!(rounds.go_on(Some(8)) && rounds.after() == [1]);
        rounds.looked(false, Vec::new());
        assert!(rounds.go_on(Some(8)), "8 may have written before the place where the round was");
        rounds.looked(false, Vec::new());
        assert!(!rounds.go_on(Some(8)));
        assert!(rounds.go_on(Some(9)));
        rounds.looked(true, vec![1]);
        rounds.looked(false, Vec::new());
        assert!(rounds.go_on(Some(9)), "it is not known to be removed");
    }
}
