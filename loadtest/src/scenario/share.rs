//! A whole in parts.

/// The share of part `number`, counted from 0, if `all` are divided as evenly as possible.
pub(crate) fn share(all: u64, parts: u64, number: u64) -> u64 {
    all / parts + u64::from(number < all % parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_add_up() {
        for (all, parts) in [(10, 3), (2, 5), (0, 1), (7, 7)] {
            let shares: Vec<_> = (0..parts).map(|number| share(all, parts, number)).collect();
            assert_eq!(shares.iter().sum::<u64>(), all);
            assert!(shares.iter().max() <= shares.iter().min().map(|least| least + 1).as_ref(), "{shares:?}");
        }
    }
}
