//! Names that nobody can guess.

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use sha2::{Digest as _, Sha256};

/// Makes the names of one connection from a random key. The same key makes the same names, so that a dialog can be played again.
pub(crate) struct Seed {
    key: [u8; 32],
    made: u32,
}

impl Seed {
    pub(crate) fn new(key: [u8; 32]) -> Self {
        Self { key, made: 0 }
    }

    /// 24 letters, digits, `-` and `_`; another one each time.
    pub(super) fn name(&mut self) -> String {
        self.made += 1;
        let hash = Sha256::new().chain_update(self.key).chain_update(self.made.to_be_bytes()).finalize();
        BASE64_URL_SAFE_NO_PAD.encode(&hash[..18])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 6120, section 4.7.3: "The stream ID MUST be both unpredictable and non-repeating".
    #[test]
    fn no_name_comes_twice_and_other_keys_make_other_names() {
        let names = |key| {
            let mut seed = Seed::new([key; 32]);
            [(); 100].map(|()| seed.name())
        };
        let all: std::collections::HashSet<_> = [1, 2].into_iter().flat_map(names).collect();
        assert_eq!(all.len(), 200);
        assert!(all.iter().all(|name| name.len() == 24));
        assert_eq!(names(1), names(1));
    }
}
