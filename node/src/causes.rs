//! Errors as text.

/// The error with its causes, each once: some errors have the cause in their own text.
pub(crate) fn told(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_told_once() {
        let cause = || std::io::Error::other("no room");
        let shown = anyhow::Error::new(cause()).context("can't write: no room; make some");
        assert_eq!(told(&shown), "can't write: no room; make some");
        let hidden = anyhow::Error::new(cause()).context("can't write");
        assert_eq!(told(&hidden), "can't write: no room");
    }
}
