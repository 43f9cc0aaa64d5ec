//! Text in columns of a terminal: how many it takes, and lines that fit.

use unicode_segmentation::UnicodeSegmentation as _;
use unicode_width::UnicodeWidthStr as _;

/// Columns that the text takes.
pub(crate) fn width(text: &str) -> usize {
    text.width()
}

/// The text in lines of at most `columns`, of which the first one has `first` less, and each other one `indent`. Lines end between words; words that
/// are too long are cut between characters.
pub(crate) fn wrapped(text: &str, first: usize, indent: usize, columns: usize) -> Vec<String> {
    // Fewer are too few for words.
    const LEAST: usize = 8;
    let room = |line: usize| columns.saturating_sub(if line == 0 { first } else { indent }).max(1);
    let mut lines = vec![String::new()];
    let mut used = 0;
    if room(0) < LEAST.min(room(1)) {
        lines.push(String::new());
    }
    for token in text.split_inclusive(' ') {
        let word = token.trim_end_matches(' ');
        if used > 0 && used + width(word) > room(lines.len() - 1) && width(word) <= room(lines.len()) {
            lines.push(String::new());
            used = 0;
        }
        for grapheme in word.graphemes(true) {
            if used > 0 && used + width(grapheme) > room(lines.len() - 1) {
                lines.push(String::new());
                used = 0;
            }
            push(&mut lines, &mut used, grapheme);
        }
        // Spaces at the end of a line are not seen.
        for space in token[word.len()..].chars().take(room(lines.len() - 1).saturating_sub(used)) {
            push(&mut lines, &mut used, space.encode_utf8(&mut [0; 4]));
        }
    }
    lines
}

fn push(lines: &mut [String], used: &mut usize, text: &str) {
    if let Some(line) = lines.last_mut() {
        line.push_str(text);
        *used += width(text);
    }
}

/// Rows that this line takes where lines are cut between characters.
pub(crate) fn rows(line: &str, columns: usize) -> usize {
    let (mut rows, mut used) = (1, 0);
    for grapheme in line.graphemes(true) {
        let width = width(grapheme);
        if used > 0 && used + width > columns {
            (rows, used) = (rows + 1, 0);
        }
        used += width;
    }
    rows
}

/// Of a text that is too long, the beginning.
pub(crate) fn shortened(text: &str, columns: usize) -> String {
    if width(text) <= columns {
        return text.to_owned();
    }
    let mut short = String::new();
    let mut used = 0;
    for grapheme in text.graphemes(true) {
        used += width(grapheme);
        if used + 1 > columns {
            break;
        }
        short.push_str(grapheme);
    }
    short + "…"
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lines_end_between_words_and_long_words_are_cut() {
        assert_eq!(wrapped("to be or not to be", 4, 2, 12), ["to be or", "not to be"]);
        assert_eq!(
            wrapped("https://example.org/a/long/path", 2, 2, 12),
            ["https://ex", "ample.org/", "a/long/pat", "h"]
        );
        assert_eq!(wrapped("  indented", 0, 0, 12), ["  indented"]);
        assert_eq!(wrapped("a long name stands alone", 38, 6, 40), ["", "a long name stands alone"]);
        assert_eq!(wrapped("", 4, 2, 12), [""]);
    }

    #[test]
    fn wide_characters_and_emoji_are_not_torn() {
        assert_eq!(wrapped("日本語日本語", 0, 0, 5), ["日本", "語日", "本語"]);
        let family = "👨\u{200d}👩\u{200d}👧";
        assert_eq!(wrapped(&family.repeat(5), 0, 0, 4), [family.repeat(2), family.repeat(2), family.to_owned()]);
        assert_eq!((rows("日本語", 5), rows("", 5), rows("abcde", 5), rows("abcdef", 5)), (2, 1, 1, 2));
        assert_eq!((shortened("日本語", 5), shortened("日本語", 6)), ("日本…".to_owned(), "日本語".to_owned()));
    }

    proptest! {
        #[test]
        fn no_line_is_wider_than_the_screen(text in "[a-z 日👍é]{0,80}", first in 0..40usize, columns in 2..40usize) {
            for (at, line) in wrapped(&text, first, 0, columns).iter().enumerate() {
                let taken = if at == 0 && !line.is_empty() { first } else { 0 };
                prop_assert!(taken + width(line) <= columns, "{line:?}");
            }
        }
    }
}
