//! Keys of what users let others see and do.

use std::io;

use super::{PRIVACY, RowBytes, broken, contact_of, key};

/// As that of `CONTACT_LIST`.
pub(crate) fn privacy(user: &str, incarnation: u64) -> RowBytes {
    key(PRIVACY, &[user.as_bytes(), &[0], &incarnation.to_be_bytes()])
}

/// User and incarnation.
pub(crate) fn privacy_of(key: &[u8]) -> io::Result<(&str, u64)> {
    match contact_of(key)? {
        (user, incarnation, "") => Ok((user, incarnation)),
        _ => Err(broken("key of privacy")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn keys_of_privacy_are_read_back(user in "[a-z0-9é.]{1,20}", of in any::<u64>()) {
            let row = privacy(&user, of);
            prop_assert_eq!(privacy_of(&row).expect("reads"), (&*user, of));
            prop_assert!(privacy_of(&[&*row, b"x"].concat()).is_err());
        }
    }
}
