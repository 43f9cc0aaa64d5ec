//! The help, over the conversation.

use ratatui::{
    Frame,
    layout::Rect,
    text::Line,
    widgets::{Block, Clear, Padding, Paragraph},
};

use super::BOLD;
use crate::{
    columns::{width, wrapped},
    help::HELP,
    model::Model,
};

/// Columns between a command and what it does.
const GAP: usize = 2;
/// Commands that are wider have a line of their own.
const WIDEST: usize = 26;

pub(super) fn draw(frame: &mut Frame<'_>, area: Rect, model: &mut Model) {
    let block = Block::bordered().padding(Padding::horizontal(1));
    let inner = block.inner(area);
    let lines = lines(usize::from(inner.width));
    let height = usize::from(inner.height);
    let first = model.help.unwrap_or_default().min(lines.len().saturating_sub(height));
    model.help = Some(first);
    model.height = height;
    let more = match (first > 0, first + height < lines.len()) {
        (false, false) => " Esc closes ",
        (false, true) => " PageDown: more, Esc closes ",
        (true, true) => " PageUp, PageDown: more, Esc closes ",
        (true, false) => " PageUp: before, Esc closes ",
    };
    let shown: Vec<_> = lines.into_iter().skip(first).take(height).collect();
    frame.render_widget(Clear, area);
    frame.render_widget(Paragraph::new(shown).block(block.title_bottom(more)), area);
}

fn lines(columns: usize) -> Vec<Line<'static>> {
    let mut lines = Vec::new();
    let widest = HELP.iter().map(|(usage, _)| width(usage)).filter(|width| *width <= WIDEST).max().unwrap_or(0);
    let indent = if columns >= 2 * widest { widest + GAP } else { 2 };
    for (usage, text) in HELP {
        if text.is_empty() {
            lines.push(Line::styled((*usage).to_owned(), BOLD));
            continue;
        }
        let space = " ".repeat(indent);
        let texts = wrapped(text, indent, indent, columns).into_iter().map(|line| format!("{space}{line}"));
        if width(usage) + GAP <= indent {
            let mut texts = texts;
            let first = texts.next().unwrap_or_default();
            let first = first.get(indent..).unwrap_or_default();
            lines.push(Line::raw(format!("{usage:<indent$}{first}")));
            lines.extend(texts.map(Line::raw));
        } else {
            lines.extend(wrapped(usage, 0, 2, columns).into_iter().map(Line::raw));
            lines.extend(texts.map(Line::raw));
        }
    }
    lines
}
