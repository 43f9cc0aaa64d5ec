//! Draws the model.

mod help;
mod history;

use carillon_proto::pb::client::Show;
use ratatui::{
    Frame,
    buffer::{Buffer, CellDiffOption},
    layout::{Constraint, Layout, Rect},
    style::{Color, Modifier, Style},
    text::{Line, Span},
    widgets::{Block, Borders, Paragraph},
};

use crate::{
    columns::{self, shortened, width, wrapped},
    model::Model,
    text,
    thread::{Said, Thread, With},
};

const LIST_WIDTH: u16 = 26;
/// A narrower screen has no list.
const LEAST_WIDTH: u16 = 60;
/// Most lines of the text that is being typed, and of the notice.
const LINES: usize = 6;

const DIM: Style = Style::new().fg(Color::DarkGray);
const BOLD: Style = Style::new().add_modifier(Modifier::BOLD);

/// True if there is room for more of the conversation.
pub(crate) fn draw(frame: &mut Frame<'_>, model: &mut Model) -> bool {
    let area = frame.area();
    let (columns, rows) = (usize::from(area.width), usize::from(area.height));
    let typed: usize = model.line.lines().iter().map(|line| columns::rows(line, columns.max(1))).sum();
    // The cursor stands behind the last character.
    let is_full =
        model.line.lines().last().is_some_and(|line| !line.is_empty() && width(line).is_multiple_of(columns.max(1)));
    let typed = (typed + usize::from(is_full)).clamp(1, LINES.min(rows / 3).max(1));
    let status = status(model, columns, LINES.min(rows / 3));
    let heights = [Constraint::Min(3), Constraint::Length(typed as u16 + 2), Constraint::Length(status.len() as u16)];
    let [above, line, below] = Layout::vertical(heights).areas(area);
    let listed = if above.width >= LEAST_WIDTH { LIST_WIDTH } else { 0 };
    let [list, right] = Layout::horizontal([Constraint::Length(listed), Constraint::Min(1)]).areas(above);
    if listed > 0 {
        draw_list(frame, list, model);
    }
    let room = history::draw(frame, right, model);
    draw_line(frame, line, model, listed > 0);
    frame.render_widget(Paragraph::new(status), below);
    if model.help.is_some() {
        help::draw(frame, above, model);
    }
    leave_no_parts(frame.buffer_mut());
    room
}

/// Lets nothing stay on the screen of a character that consists of several. Some terminals show its parts one after another (tmux 3.3: the two letters of
/// a flag), so that parts stand in cells that count as covered, or behind them.
fn leave_no_parts(buffer: &mut Buffer) {
    let area = buffer.area;
    for y in area.top()..area.bottom() {
        for x in area.left()..area.right() {
            let symbol = buffer[(x, y)].symbol();
            if symbol.chars().nth(1).is_none() {
                continue;
            }
            let parts: usize = symbol.chars().map(|part| width(part.encode_utf8(&mut [0; 4]))).sum();
            let end = usize::from(x) + parts.max(width(symbol));
            // A covered cell is not written, but differs then from a blank one, which is written when it follows. Those behind are always written.
            for behind in x + 1..area.right().min(u16::try_from(end).unwrap_or(u16::MAX)) {
                buffer[(behind, y)].set_diff_option(CellDiffOption::AlwaysUpdate);
            }
        }
    }
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
    let space = " ".repeat(room.saturating_sub(columns::width(&name)));
    Line::styled(format!("{sign} {name}{draft}{pin}{space} {unread}"), style)
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

/// The line in which the user types. Its upper border tells of messages that are not on the screen.
fn draw_line(frame: &mut Frame<'_>, area: Rect, model: &Model, has_list: bool) {
    let block = Block::new().borders(Borders::TOP | Borders::BOTTOM).border_style(DIM);
    let mut block = block.title_top(Line::styled(below(model), Style::new().fg(Color::Yellow)));
    // There is room for one of the two.
    if !has_list && model.scroll == 0 {
        block = block.title_top(Line::styled(elsewhere(model), BOLD).right_aligned());
    }
    let inner = block.inner(area);
    frame.render_widget(block, area);
    frame.render_widget(&model.line, inner);
}

/// While older messages are shown: how much is below them.
fn below(model: &Model) -> String {
    let Some((_, thread)) = model.open_thread().filter(|_| model.scroll > 0) else { return String::new() };
    let is_new = |said: &Said| said.message.sender != model.user.as_str();
    let new = thread.said.range(model.scrolled_from + 1..).filter(|(_, said)| is_new(said)).count();
    let lines = if model.scroll == 1 { "1 line below".to_owned() } else { format!("{} lines below", model.scroll) };
    let new = if new == 0 { String::new() } else { format!(", {new} new") };
    format!(" {lines}{new}: PageDown, Esc ")
}

/// Unread messages of other conversations, for a window without a list.
fn elsewhere(model: &Model) -> String {
    let is_other = |with: &With| model.open.as_ref() != Some(with);
    let unread = model.listed().into_iter().filter(|(with, thread)| is_other(with) && thread.unread > 0);
    let named: Vec<_> = unread.filter(|(_, thread)| !thread.is_request()).collect();
    let shown: Vec<_> = named
        .iter()
        .take(2)
        .map(|(with, thread)| format!("{}{} {}", sign(with), shortened(with.name(), 10), thread.unread))
        .collect();
    match named.len() {
        0 => String::new(),
        count @ 1..=2 => format!(" {} ", shown[..count].join(", ")),
        count => format!(" {}, {} more ", shown.join(", "), count - 2),
    }
}

fn sign(with: &With) -> &'static str {
    if with.is_group() { "#" } else { "" }
}

/// The connection and the notice: in one line if there is room, otherwise below one another.
fn status(model: &Model, columns: usize, most: usize) -> Vec<Line<'static>> {
    let color = if model.is_connected { Color::Green } else { Color::Red };
    let notice = if model.help.is_some() { "" } else { &model.notice };
    let dot = Span::styled("● ", Style::new().fg(color));
    let is_short = width(&model.connection) + width(notice) + 4 <= columns;
    if is_short || (notice.is_empty() && model.is_connected) {
        let line = vec![dot, Span::styled(format!("{}  ", model.connection), DIM), Span::raw(notice.to_owned())];
        return vec![Line::from(line)];
    }
    let connection = wrapped(&model.connection, 2, 2, columns).into_iter().enumerate();
    let mut all: Vec<_> = connection
        .map(|(at, line)| match at {
            0 => Line::from(vec![dot.clone(), Span::styled(line, DIM)]),
            _ => Line::styled(format!("  {line}"), DIM),
        })
        .collect();
    if model.is_connected {
        all.truncate(1);
    }
    for part in notice.split('\n').filter(|part| !part.is_empty()) {
        all.extend(
            wrapped(part, 0, 2, columns)
                .into_iter()
                .enumerate()
                .map(|(at, line)| Line::raw(if at == 0 { line } else { format!("  {line}") })),
        );
    }
    all.truncate(most.max(1));
    all
}
