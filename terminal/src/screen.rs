//! Draws the model.

use carillon_proto::pb::client::Show;
use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    style::{Color, Modifier, Style},
    text::{Line, Span},
    widgets::{Block, Borders, Clear, Paragraph},
};

use crate::{
    model::Model,
    text,
    thread::{Pending, Reached, Said, Thread, With},
};

const LIST_WIDTH: u16 = 26;
/// A narrower screen has no list.
const LEAST_WIDTH: u16 = 60;
/// Most lines of what is being typed.
const LINES: u16 = 6;

const DIM: Style = Style::new().fg(Color::DarkGray);
const BOLD: Style = Style::new().add_modifier(Modifier::BOLD);

/// True if there is room for more of the conversation.
pub(crate) fn draw(frame: &mut Frame<'_>, model: &mut Model) -> bool {
    let typed = (model.line.lines().len() as u16).clamp(1, LINES);
    let [above, line, status] =
        Layout::vertical([Constraint::Min(3), Constraint::Length(typed + 2), Constraint::Length(1)])
            .areas(frame.area());
    let listed = if above.width >= LEAST_WIDTH { LIST_WIDTH } else { 0 };
    let [list, right] = Layout::horizontal([Constraint::Length(listed), Constraint::Min(1)]).areas(above);
    if listed > 0 {
        draw_list(frame, list, model);
    }
    let room = draw_history(frame, right, model);
    draw_line(frame, line, model);
    draw_status(frame, status, model);
    if model.notice.contains('\n') {
        draw_help(frame, above, &model.notice);
    }
    room
}

fn draw_list(frame: &mut Frame<'_>, area: Rect, model: &Model) {
    let block = Block::new().borders(Borders::RIGHT).border_style(DIM);
    let inner = block.inner(area);
    let rows: Vec<_> = model.listed().into_iter().map(|(with, thread)| row(model, with, thread, inner.width)).collect();
    // The open one is always in sight.
    let at = model.listed().iter().position(|(with, _)| Some(*with) == model.open.as_ref()).unwrap_or(0);
    let first = (at + 1).saturating_sub(usize::from(inner.height));
    let shown: Vec<_> = rows.into_iter().skip(first).take(usize::from(inner.height)).collect();
    frame.render_widget(block, area);
    frame.render_widget(Paragraph::new(shown), inner);
}

fn row(model: &Model, with: &With, thread: &Thread, width: u16) -> Line<'static> {
    let sign = match (with, model.shown.get(with.name()).map(|presence| presence.show())) {
        _ if thread.is_request() => "?",
        (With::Group(_), _) => "#",
        (With::User(_), Some(Show::Online)) => "●",
        (With::User(_), Some(Show::Away | Show::ExtendedAway)) => "◐",
        (With::User(_), Some(Show::DoNotDisturb)) => "⊘",
        (With::User(_), Some(Show::Unspecified) | None) => " ",
    };
    let unread = match thread.unread {
        0 if thread.settings.unread() => "•".to_owned(),
        0 => String::new(),
        unread => unread.to_string(),
    };
    let pin = if thread.settings.pinned() { "^" } else { "" };
    let draft = if thread.settings.draft().is_empty() { "" } else { "…" };
    let room = usize::from(width).saturating_sub(4 + unread.len() + pin.len() + draft.chars().count());
    let name = shortened(with.name(), room);
    let style = match Some(with) == model.open.as_ref() {
        true => BOLD.add_modifier(Modifier::REVERSED),
        false if !unread.is_empty() && !thread.is_request() => BOLD,
        false if thread.settings.archived() || thread.is_request() => DIM,
        false => Style::new(),
    };
    let space = " ".repeat(room.saturating_sub(textwrap::core::display_width(&name)));
    Line::styled(format!("{sign} {name}{draft}{pin}{space} {unread}"), style)
}

/// Of a name that is too long, the beginning.
fn shortened(name: &str, room: usize) -> String {
    if textwrap::core::display_width(name) <= room {
        return name.to_owned();
    }
    let mut short = String::new();
    for char in name.chars() {
        if textwrap::core::display_width(&short) + 2 > room {
            break;
        }
        short.push(char);
    }
    short + "…"
}

fn draw_history(frame: &mut Frame<'_>, area: Rect, model: &mut Model) -> bool {
    let [head, body] = Layout::vertical([Constraint::Length(1), Constraint::Min(1)]).areas(area);
    let Some((with, _)) = model.open_thread() else {
        frame.render_widget(Paragraph::new("no conversation yet: /with USER, /group GROUP, /help").style(DIM), body);
        return false;
    };
    frame.render_widget(Paragraph::new(title(model, with)).style(BOLD), head);
    let (height, width) = (usize::from(body.height), usize::from(body.width));
    let wanted = height + model.scroll;
    let lines = newest_lines(model, width, wanted);
    let has_room = lines.len() < wanted && !model.is_whole();
    model.scroll_at_most(lines.len().saturating_sub(height));
    // From the newest to the oldest.
    let shown: Vec<_> = lines.into_iter().skip(model.scroll).take(height).collect();
    let empty = (height - shown.len()) as u16;
    let body = Rect { y: body.y + empty, height: body.height - empty, ..body };
    frame.render_widget(Paragraph::new(shown.into_iter().rev().collect::<Vec<_>>()), body);
    has_room
}

fn title(model: &Model, with: &With) -> String {
    let sign = if with.is_group() { "#" } else { "" };
    let shown = model.shown.get(with.name()).filter(|_| !with.is_group());
    let shown = shown.map(|presence| {
        let show = presence.show().as_str_name().trim_start_matches("SHOW_").to_lowercase().replace('_', " ");
        let show = match (presence.show(), presence.last_seen_ms) {
            (Show::Unspecified, 0) => "offline".to_owned(),
            (Show::Unspecified, seen_ms) => format!("last seen {}", last_seen(model, seen_ms)),
            _ => show,
        };
        format!("  {show} {}", text::printable(&presence.status).replace('\n', " "))
    });
    let writers: Vec<_> =
        model.writing.keys().filter(|(place, _)| place == with).map(|(_, who)| who.as_str()).collect();
    let is_writing = match (with, &writers[..]) {
        (_, []) => String::new(),
        (With::User(_), _) => "  is writing…".to_owned(),
        (With::Group(_), [one]) => format!("  {one} is writing…"),
        (With::Group(_), [one, others @ ..]) => format!("  {one} and {} more are writing…", others.len()),
    };
    let is_request = model.open_thread().is_some_and(|(_, thread)| thread.is_request());
    let writing = if is_request { "  is a stranger: /accept or /decline" } else { &is_writing };
    format!("{sign}{}{}{writing}", with.name(), shown.unwrap_or_default())
}

/// The time, and the day if it is another one than today.
fn last_seen(model: &Model, seen_ms: u64) -> String {
    let (seen, now) = ((model.local)(seen_ms), (model.local)(model.now_ms));
    let format = if seen.date() == now.date() { "%H:%M" } else { "%Y-%m-%d %H:%M" };
    seen.format(format).to_string()
}

/// The last lines of the open conversation, the newest first, and some more than are wanted.
fn newest_lines(model: &Model, width: usize, wanted: usize) -> Vec<Line<'static>> {
    let Some((with, thread)) = model.open_thread() else { return Vec::new() };
    let mut lines = Vec::new();
    for pending in thread.pending.iter().rev() {
        lines.extend(of_pending(model, pending, width).into_iter().rev());
    }
    let mut said = thread.said.iter().rev().peekable();
    while let Some((seq, message)) = said.next() {
        if lines.len() >= wanted {
            return lines;
        }
        lines.extend(of_message(model, with, thread, *seq, message, width).into_iter().rev());
        let before = said.peek();
        let day = |said: &Said| (model.local)(said.time_ms).date();
        if model.read_before.is_some_and(|read| read < *seq && before.is_none_or(|(seq, _)| **seq <= read)) {
            lines.push(Line::styled(ruled("new", width), Style::new().fg(Color::Red)));
        }
        if before.map_or(model.is_whole(), |(_, before)| day(before) != day(message)) {
            lines.push(Line::styled(ruled(&day(message).to_string(), width), DIM));
        }
    }
    lines
}

fn ruled(text: &str, width: usize) -> String {
    let line = "─".repeat(width.saturating_sub(text.len() + 2) / 2);
    format!("{line} {text} {line}")
}

fn of_message(model: &Model, with: &With, thread: &Thread, seq: u64, said: &Said, width: usize) -> Vec<Line<'static>> {
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
    let mut lines = wrapped(&time, (name, sender), &said.text, (tick, DIM), width);
    if !said.about.is_empty() {
        lines.push(Line::styled(format!("      {}", said.about.replace('\n', " ")), Style::new().fg(Color::Yellow)));
    }
    if model.chosen == Some(seq) {
        lines.iter_mut().for_each(|line| line.style = line.style.bg(Color::DarkGray));
    }
    lines
}

fn of_pending(model: &Model, pending: &Pending, width: usize) -> Vec<Line<'static>> {
    let (tick, style) = match &pending.refused {
        None => (" …".to_owned(), DIM),
        Some(why) => (format!(" ✗ {}", why.replace('\n', " ")), Style::new().fg(Color::Red)),
    };
    wrapped("  …  ", (model.user.as_str(), DIM), &pending.text, (&tick, style), width)
}

fn wrapped(
    time: &str,
    (sender, sender_style): (&str, Style),
    text: &str,
    (tick, tick_style): (&str, Style),
    width: usize,
) -> Vec<Line<'static>> {
    let head = format!("{time} {sender}: ");
    let room = width.saturating_sub(6).max(1);
    let mut lines = Vec::new();
    let first = " ".repeat(textwrap::core::display_width(&head).min(room.saturating_sub(1)));
    for (at, line) in text.split('\n').enumerate() {
        let indent = if at == 0 { first.as_str() } else { "      " };
        let options = textwrap::Options::new(width.max(1)).initial_indent(indent).subsequent_indent("      ");
        lines.extend(textwrap::wrap(line, options).into_iter().map(std::borrow::Cow::into_owned));
    }
    let mut styled: Vec<Line<'static>> = Vec::new();
    for (at, line) in lines.into_iter().enumerate() {
        if at == 0 {
            let said = line.get(first.len()..).unwrap_or_default().to_owned();
            styled.push(Line::from(vec![
                Span::styled(format!("{time} "), DIM),
                Span::styled(format!("{sender}: "), sender_style),
                Span::raw(said),
            ]));
        } else {
            styled.push(Line::raw(line));
        }
    }
    if let Some(last) = styled.last_mut() {
        if last.width() + textwrap::core::display_width(tick) > width {
            styled.push(Line::styled(format!("     {tick}"), tick_style));
        } else {
            last.push_span(Span::styled(tick.to_owned(), tick_style));
        }
    }
    styled
}

fn draw_line(frame: &mut Frame<'_>, area: Rect, model: &Model) {
    let block = Block::new().borders(Borders::TOP | Borders::BOTTOM).border_style(DIM);
    let inner = block.inner(area);
    frame.render_widget(block, area);
    frame.render_widget(&model.line, inner);
}

fn draw_status(frame: &mut Frame<'_>, area: Rect, model: &Model) {
    let sign = if model.is_connected { Color::Green } else { Color::Red };
    let notice = if model.notice.contains('\n') { "Esc closes the help" } else { &model.notice };
    let status = vec![
        Span::styled("● ", Style::new().fg(sign)),
        Span::styled(format!("{}  ", model.connection), DIM),
        Span::raw(notice.to_owned()),
    ];
    frame.render_widget(Paragraph::new(Line::from(status)), area);
}

fn draw_help(frame: &mut Frame<'_>, area: Rect, help: &str) {
    let height = (help.lines().count() as u16 + 2).min(area.height);
    let width = (help.lines().map(textwrap::core::display_width).max().unwrap_or(0) as u16 + 4).min(area.width);
    let place = Rect { x: area.x + (area.width - width) / 2, y: area.y + (area.height - height) / 2, width, height };
    frame.render_widget(Clear, place);
    let block = Block::bordered().padding(ratatui::widgets::Padding::horizontal(1));
    frame.render_widget(Paragraph::new(help.to_owned()).block(block), place);
}
