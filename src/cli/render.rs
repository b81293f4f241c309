//! Text for people: tables and panels in a terminal, plain lines in a pipe.

use std::fmt::Write;
use std::io::IsTerminal;

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use crate::input::text::is_hidden;

/// Where text goes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Look {
    /// Boxes and bold headers are for terminals.
    pub(crate) is_terminal: bool,
    pub(crate) is_bold: bool,
    /// In columns of a terminal.
    pub(crate) width: usize,
}

/// No table is made narrower than this.
const LEAST_WIDTH: usize = 40;
/// No column is, if it has more to show.
const LEAST_COLUMN: usize = 6;
/// No cell is higher than this; a longer text ends in `…`. A pipe gets all of it.
const MOST_LINES: usize = 3;

impl Look {
    pub(crate) fn of_stdout() -> Self {
        let is_terminal = std::io::stdout().is_terminal();
        let width = terminal_size::terminal_size().map_or(80, |(width, _)| usize::from(width.0));
        let has_colours = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self {
            is_terminal,
            is_bold: is_terminal && has_colours,
            width: width.max(LEAST_WIDTH),
        }
    }
}

/// Text from outside made harmless: what moves the cursor, changes colours or turns the direction
/// of writing is shown as an escape.
pub(crate) fn escaped(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' => shown.push_str("\\n"),
            '\r' => shown.push_str("\\r"),
            '\t' => shown.push_str("\\t"),
            c if is_hidden(c) => shown.extend(c.escape_unicode()),
            c => shown.push(c),
        }
    }
    shown
}

pub(crate) struct Table {
    headers: Vec<&'static str>,
    right: Vec<bool>,
    flexible: Vec<bool>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these headers. Columns whose header starts with `>` are aligned to the right;
    /// those that start with `~` hold free text and give way where there is little room.
    pub(crate) fn new(headers: &[&'static str]) -> Self {
        let starts = |sign| {
            headers
                .iter()
                .map(|header| header.starts_with(sign))
                .collect()
        };
        Self {
            headers: headers
                .iter()
                .map(|header| header.trim_start_matches(['>', '~']))
                .collect(),
            right: starts('>'),
            flexible: starts('~'),
            rows: Vec::new(),
        }
    }

    /// Adds a row of raw texts.
    pub(crate) fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows
            .push(cells.iter().map(|cell| escaped(cell)).collect());
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    pub(crate) fn render(&self, look: Look) -> String {
        let mut out = String::new();
        if !look.is_terminal {
            push_line(&mut out, &self.headers.join("\t"));
            for row in &self.rows {
                push_line(&mut out, &row.join("\t"));
            }
            return out;
        }
        let widths = self.widths(look.width);
        let rule = |left, middle, right| {
            let bars: Vec<String> = widths.iter().map(|width| "─".repeat(width + 2)).collect();
            format!("{left}{}{right}", bars.join(middle))
        };
        push_line(&mut out, &rule("┌", "┬", "┐"));
        let headers: Vec<String> = self
            .headers
            .iter()
            .map(|header| (*header).to_owned())
            .collect();
        self.push_row(&mut out, &headers, &widths, look.is_bold);
        push_line(&mut out, &rule("├", "┼", "┤"));
        for row in &self.rows {
            self.push_row(&mut out, row, &widths, false);
        }
        push_line(&mut out, &rule("└", "┴", "┘"));
        out
    }

    /// As wide as the content; where that is more than there is, the widest of free text give way.
    fn widths(&self, available: usize) -> Vec<usize> {
        let mut widths: Vec<usize> = self.headers.iter().map(|header| header.width()).collect();
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.width());
            }
        }
        let room = available.saturating_sub(3 * widths.len() + 1);
        while widths.iter().sum::<usize>() > room {
            let flexible = widths.iter_mut().zip(&self.flexible);
            match flexible
                .filter(|(_, flexible)| **flexible)
                .map(|(width, _)| width)
                .max()
            {
                Some(widest) if *widest > LEAST_COLUMN => *widest -= 1,
                _ => break,
            }
        }
        widths
    }

    fn push_row(&self, out: &mut String, cells: &[String], widths: &[usize], is_bold: bool) {
        let wrapped: Vec<Vec<String>> = cells
            .iter()
            .zip(widths)
            .map(|(cell, width)| wrap_to(cell, *width, MOST_LINES))
            .collect();
        let height = wrapped.iter().map(Vec::len).max().unwrap_or(1);
        let (bold, plain) = if is_bold {
            ("\u{1b}[1m", "\u{1b}[0m")
        } else {
            ("", "")
        };
        for line in 0..height {
            for ((cell, width), right) in wrapped.iter().zip(widths).zip(&self.right) {
                let text = cell.get(line).map_or("", String::as_str);
                let fill = " ".repeat(width.saturating_sub(text.width()));
                let (left, right) = if *right {
                    (fill.as_str(), "")
                } else {
                    ("", fill.as_str())
                };
                let _ = write!(out, "│ {left}{bold}{text}{plain}{right} ");
            }
            push_line(out, "│");
        }
    }
}

/// As [`wrap`], into so many pieces at most.
fn wrap_to(text: &str, width: usize, most: usize) -> Vec<String> {
    let mut lines: Vec<String> = wrap(text, width).into_iter().map(str::to_owned).collect();
    if lines.len() > most {
        lines.truncate(most);
        if let Some(last) = lines.last_mut() {
            while last.width() >= width && last.pop().is_some() {}
            last.push('…');
        }
    }
    lines
}

/// Cuts `text` into pieces that are at most `width` columns wide, behind a space if there is one.
fn wrap(text: &str, width: usize) -> Vec<&str> {
    let (mut lines, mut rest) = (Vec::new(), text);
    while rest.width() > width {
        let mut used = 0;
        let fits = |(_, c): &(usize, char)| {
            used += c.width().unwrap_or(0);
            used <= width
        };
        let end = rest.char_indices().take_while(fits).last();
        let end = end.map_or(0, |(at, c)| at + c.len_utf8());
        // A character that is wider than the column stands alone.
        let end = end.max(rest.chars().next().map_or(0, char::len_utf8));
        let end = rest[..end].rfind(' ').map_or(end, |space| space + 1);
        let (line, after) = rest.split_at(end);
        lines.push(line.trim_end());
        rest = after;
    }
    if !rest.is_empty() || lines.is_empty() {
        lines.push(rest);
    }
    lines
}

/// A titled box of names and values.
pub(crate) struct Panel {
    title: &'static str,
    lines: Vec<(&'static str, String, bool)>,
}

impl Panel {
    pub(crate) fn new(title: &'static str) -> Self {
        Self {
            title,
            lines: Vec::new(),
        }
    }

    pub(crate) fn line(mut self, name: &'static str, value: impl ToString) -> Self {
        self.lines.push((name, escaped(&value.to_string()), false));
        self
    }

    /// A value that is to be copied: the box grows rather than cut it.
    pub(crate) fn copied(mut self, name: &'static str, value: impl ToString) -> Self {
        self.lines.push((name, escaped(&value.to_string()), true));
        self
    }

    pub(crate) fn render(&self, look: Look) -> String {
        let mut out = String::new();
        if !look.is_terminal {
            for (name, value, _) in &self.lines {
                push_line(&mut out, &format!("{name}: {value}"));
            }
            return out;
        }
        let names = self
            .lines
            .iter()
            .map(|(name, ..)| name.width())
            .max()
            .unwrap_or(0);
        let room = look.width.saturating_sub(names + 6).max(LEAST_COLUMN);
        let wrapped: Vec<Vec<&str>> = self
            .lines
            .iter()
            .map(|(_, value, copied)| {
                if *copied {
                    vec![value.as_str()]
                } else {
                    wrap(value, room)
                }
            })
            .collect();
        let values = wrapped
            .iter()
            .flatten()
            .map(|line| line.width())
            .max()
            .unwrap_or(0);
        let inner = (names + 2 + values).max(self.title.width() + 2);
        let bar = "─".repeat(inner.saturating_sub(self.title.width() + 1));
        push_line(&mut out, &format!("╭─ {} {bar}╮", self.title));
        for ((name, ..), lines) in self.lines.iter().zip(&wrapped) {
            for (at, line) in lines.iter().enumerate() {
                let name = if at == 0 { *name } else { "" };
                let gap = " ".repeat(names + 2 - name.width());
                let fill = " ".repeat(inner - names - 2 - line.width());
                push_line(&mut out, &format!("│ {name}{gap}{line}{fill} │"));
            }
        }
        push_line(&mut out, &format!("╰{}╯", "─".repeat(inner + 2)));
        out
    }
}

fn push_line(out: &mut String, line: &str) {
    out.push_str(line);
    out.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    const TERMINAL: Look = Look {
        is_terminal: true,
        is_bold: false,
        width: 80,
    };
    const PIPE: Look = Look {
        is_terminal: false,
        is_bold: false,
        width: 80,
    };

    fn table(label: &str) -> Table {
        let mut table = Table::new(&[">id", "~label", "prefix"]);
        table.row(["7".into(), label.into(), "kg_live_abcd".into()]);
        table
    }

    fn is_boxed(text: &str) -> bool {
        text.contains(['│', '─', '┌', '╭', '\u{1b}'])
    }

    #[test]
    fn a_pipe_gets_one_plain_line_a_row() {
        let text = table(&"宽".repeat(255)).render(PIPE);
        assert_eq!(text.lines().count(), 2);
        assert!(!is_boxed(&text));
        assert!(!is_boxed(&Panel::new("key").line("id", 7).render(PIPE)));
    }

    #[test]
    fn columns_fit_their_content() {
        assert_eq!(
            table("shop").render(TERMINAL),
            "┌────┬───────┬──────────────┐\n\
             │ id │ label │ prefix       │\n\
             ├────┼───────┼──────────────┤\n\
             │  7 │ shop  │ kg_live_abcd │\n\
             └────┴───────┴──────────────┘\n"
        );
    }

    #[test]
    fn a_label_of_255_wide_characters_stays_within_its_column() {
        let text = table(&"宽".repeat(255)).render(TERMINAL);
        let widths: Vec<usize> = text.lines().map(UnicodeWidthStr::width).collect();
        assert!(
            widths
                .iter()
                .all(|width| *width == widths[0] && *width <= 80),
            "{widths:?}"
        );
        assert_eq!(text.lines().count(), 3 + MOST_LINES + 1);
        assert_eq!(text.matches('…').count(), 1);
        let narrow = Look {
            width: 40,
            ..TERMINAL
        };
        let panel = Panel::new("key")
            .line("label", "宽".repeat(255))
            .render(narrow);
        assert!(panel.lines().all(|line| line.width() <= 40));
    }

    #[test]
    fn text_breaks_at_spaces_where_it_can() {
        assert_eq!(wrap("limit `login`", 9), ["limit", "`login`"]);
        assert_eq!(wrap("abcdefgh", 3), ["abc", "def", "gh"]);
        assert_eq!(wrap("宽宽", 1), ["宽", "宽"]);
        assert_eq!(wrap("", 3), [""]);
    }

    #[test]
    fn hostile_text_is_shown_and_not_obeyed() {
        let hostile = "a\u{1b}]0;title\u{7}b\nc\u{202e}d\u{200b}";
        for look in [TERMINAL, PIPE] {
            let text =
                table(hostile).render(look) + &Panel::new("p").line("x", hostile).render(look);
            assert!(
                !text.contains(['\u{1b}', '\u{7}', '\u{202e}', '\u{200b}']),
                "{text}"
            );
        }
        assert_eq!(escaped("a\u{1b}[m\n"), "a\\u{1b}[m\\n");
        assert_eq!(escaped("grün 宽 🦀"), "grün 宽 🦀");
    }

    #[test]
    fn a_key_is_never_cut() {
        let key = "k".repeat(200);
        assert!(
            Panel::new("key")
                .copied("key", &key)
                .render(TERMINAL)
                .contains(&key)
        );
    }
}
