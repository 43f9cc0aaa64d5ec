//! The messages of the open conversation.

use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    style::{Color, Modifier, Style},
    text::{Line, Span},
    widgets::Paragraph,
};

use super::{BOLD, DIM, title};
use crate::{
    columns::{shortened, width, wrapped},
    model::Model,
    thread::{Pending, Reached, Said, Thread, With},
};

/// Narrower screens begin further lines of a message further to the left.
const WIDE: usize = 50;

/// A line, and the position of its message if it is of one.
type OfMessage = (Option<u64>, Line<'static>);

/// True if there is room for more of the conversation.
pub(super) fn draw(frame: &mut Frame<'_>, area: Rect, model: &mut Model) -> bool {
    let [head, body] = Layout::vertical([Constraint::Length(1), Constraint::Min(1)]).areas(area);
    let (height, columns) = (usize::from(body.height), usize::from(body.width));
    model.height = height;
    let Some((with, _)) = model.open_thread() else {
        let lines = wrapped("no conversation yet: /with USER, /group GROUP, /help", 0, 0, columns);
        frame.render_widget(Paragraph::new(lines.into_iter().map(Line::raw).collect::<Vec<_>>()).style(DIM), body);
        return false;
    };
    frame.render_widget(Paragraph::new(shortened(&title(model, with), columns)).style(BOLD), head);
    stay(model, columns);
    let wanted = height.saturating_add(model.scroll);
    let lines = newest_lines(model, columns, wanted);
    let has_room = lines.len() < wanted && !model.is_whole();
    show_choice(model, &lines, height);
    model.scroll_at_most(lines.len().saturating_sub(height));
    // From the newest to the oldest.
    let shown: Vec<_> = lines.into_iter().skip(model.scroll).take(height).map(|(_, line)| line).collect();
    let empty = (height - shown.len()) as u16;
    let body = Rect { y: body.y + empty, height: body.height - empty, ..body };
    frame.render_widget(Paragraph::new(shown.into_iter().rev().collect::<Vec<_>>()), body);
    has_room
}

/// Keeps older messages where they are on the screen when new ones come below.
fn stay(model: &mut Model, columns: usize) {
    let Some((with, thread)) = model.open_thread().filter(|_| model.scroll > 0) else { return };
    let new = thread.said.range(model.held_at + 1..);
    let lines: usize = new.map(|(seq, said)| of_message(model, with, thread, *seq, said, columns).len()).sum();
    let newest = thread.newest_seq();
    if model.held_at != 0 {
        model.scroll = model.scroll.saturating_add(lines);
    }
    model.held_at = newest;
}

/// Scrolls to the message that was just chosen.
fn show_choice(model: &mut Model, lines: &[OfMessage], height: usize) {
    if !std::mem::take(&mut model.shows_choice) {
        return;
    }
    let is_chosen = |(seq, _): &OfMessage| seq.is_some() && *seq == model.chosen;
    let (newest, oldest) = (lines.iter().position(is_chosen), lines.iter().rposition(is_chosen));
    let (Some(newest), Some(oldest)) = (newest, oldest) else { return };
    if oldest >= model.scroll + height {
        model.scroll = oldest + 1 - height;
    }
    model.scroll = model.scroll.min(newest);
}

/// The last lines of the open conversation, the newest first, and some more than are wanted.
fn newest_lines(model: &Model, columns: usize, wanted: usize) -> Vec<OfMessage> {
    let Some((with, thread)) = model.open_thread() else { return Vec::new() };
    let mut lines = Vec::new();
    for pending in thread.pending.iter().rev() {
        lines.extend(of_pending(model, pending, columns).into_iter().rev().map(|line| (None, line)));
    }
    let mut said = thread.said.iter().rev().peekable();
    while let Some((seq, message)) = said.next() {
        let is_above = model.shows_choice && model.chosen.is_some_and(|chosen| chosen <= *seq);
        if lines.len() >= wanted && !is_above {
            return lines;
        }
        let of_message = of_message(model, with, thread, *seq, message, columns);
        lines.extend(of_message.into_iter().rev().map(|line| (Some(*seq), line)));
        let before = said.peek();
        let day = |said: &Said| (model.local)(said.time_ms).date();
        if model.read_before.is_some_and(|read| read < *seq && before.is_none_or(|(seq, _)| **seq <= read)) {
            lines.push((None, Line::styled(ruled("new", columns), Style::new().fg(Color::Red))));
        }
        if before.map_or(model.is_whole(), |(_, before)| day(before) != day(message)) {
            lines.push((None, Line::styled(ruled(&day(message).to_string(), columns), DIM)));
        }
    }
    lines
}

fn ruled(text: &str, columns: usize) -> String {
    let line = "─".repeat(columns.saturating_sub(text.len() + 2) / 2);
    format!("{line} {text} {line}")
}

fn of_message(
    model: &Model,
    with: &With,
    thread: &Thread,
    seq: u64,
    said: &Said,
    columns: usize,
) -> Vec<Line<'static>> {
    let is_own = said.message.sender == model.user.as_str();
    let tick = match (is_own, with) {
        (false, _) => "",
        (true, With::Group(_)) => " ✓",
        (true, With::User(_)) => match thread.reached(seq, &said.message.id) {
            Reached::Accepted => " ✓",
            Reached::Delivered => " ✓✓",
            Reached::Read => " ✓✓ read",
        },
    };
    let sender = Style::new().fg(if is_own { Color::Cyan } else { Color::Green }).add_modifier(Modifier::BOLD);
    let time = (model.local)(said.time_ms).format("%H:%M").to_string();
    // The operator's changes of groups have no sender, nor have those that follow from the end of an account.
    let name = if said.message.sender.is_empty() { "the service" } else { &said.message.sender };
    let mut lines = in_lines(&time, (name, sender), &said.text, (tick, DIM), columns);
    if !said.about.is_empty() {
        lines.extend(indented(&said.about.replace('\n', " "), columns, Style::new().fg(Color::Yellow)));
    }
    if model.chosen == Some(seq) {
        lines.iter_mut().for_each(|line| line.style = line.style.add_modifier(Modifier::REVERSED));
    }
    lines
}

fn of_pending(model: &Model, pending: &Pending, columns: usize) -> Vec<Line<'static>> {
    let (tick, style) = match &pending.refused {
        None => (" …".to_owned(), DIM),
        Some(why) => (format!(" ✗ {}", why.replace('\n', " ")), Style::new().fg(Color::Red)),
    };
    in_lines("  …  ", (model.user.as_str(), DIM), &pending.text, (&tick, style), columns)
}

fn in_lines(
    time: &str,
    (sender, sender_style): (&str, Style),
    text: &str,
    (tick, tick_style): (&str, Style),
    columns: usize,
) -> Vec<Line<'static>> {
    let sender = shortened(sender, (columns / 2).max(8));
    let head = width(&format!("{time} {sender}: "));
    let indent = indent(columns);
    let space = " ".repeat(indent);
    let mut lines: Vec<Line<'static>> = Vec::new();
    for part in text.split('\n') {
        let first = if lines.is_empty() { head } else { indent };
        for line in wrapped(part, first, indent, columns) {
            lines.push(match lines.is_empty() {
                true => Line::from(vec![
                    Span::styled(format!("{time} "), DIM),
                    Span::styled(format!("{sender}: "), sender_style),
                    Span::raw(line),
                ]),
                false => Line::raw(format!("{space}{line}")),
            });
        }
    }
    match lines.last_mut().filter(|last| last.width() + width(tick) <= columns) {
        Some(last) => last.push_span(Span::styled(tick.to_owned(), tick_style)),
        None => lines.extend(indented(tick.trim_start(), columns, tick_style)),
    }
    lines
}

fn indented(text: &str, columns: usize, style: Style) -> Vec<Line<'static>> {
    let indent = indent(columns);
    let lines = wrapped(text, indent, indent, columns).into_iter();
    lines.map(|line| Line::styled(format!("{}{line}", " ".repeat(indent)), style)).collect()
}

fn indent(columns: usize) -> usize {
    if columns >= WIDE { 6 } else { 2.min(columns / 4) }
}
