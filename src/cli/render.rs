//! Text for people: tables and panels in a terminal, plain lines in a pipe.

use std::io::IsTerminal;

use comfy_table::{
    Cell, CellAlignment, ColumnConstraint, ContentArrangement, ContentLineStyle, LineStyle, Row,
    TableStyle, Width,
};
use unicode_width::UnicodeWidthStr;

use crate::input::text::push_escaped;

/// The properties of the output that rendering depends on.
#[derive(Clone, Copy, Debug)]
pub(super) struct OutputStyle {
    /// Terminals get boxes, pipes get plain lines.
    pub(super) is_terminal: bool,
    /// Headers of tables are bold.
    is_bold: bool,
    /// The width of the terminal in columns.
    width: u16,
}

impl OutputStyle {
    pub(super) fn of_stdout() -> Self {
        let is_terminal = std::io::stdout().is_terminal();
        let has_colors = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self {
            is_terminal,
            is_bold: is_terminal && has_colors,
            width: terminal_size::terminal_size().map_or(80, |(width, _)| width.0),
        }
    }
}

#[cfg(test)]
impl OutputStyle {
    /// A terminal with 80 columns, without bold text.
    pub(super) const TERMINAL: Self = Self {
        is_terminal: true,
        is_bold: false,
        width: 80,
    };

    pub(super) const PIPE: Self = Self {
        is_terminal: false,
        ..Self::TERMINAL
    };
}

/// Replaces characters that move the cursor, change colors or reverse the writing direction by escapes.
pub(super) fn escaped(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        push_escaped(&mut shown, c);
    }
    shown
}

/// The borders of tables.
const TABLE: TableStyle = TableStyle::new()
    .top_border(LineStyle::new('┌', '─', '┬', '┐'))
    .header_lines(ContentLineStyle::new('│', '│', '│'))
    .header_separator(LineStyle::new('├', '─', '┼', '┤'))
    .content_lines(ContentLineStyle::new('│', '│', '│'))
    .bottom_border(LineStyle::new('└', '─', '┴', '┘'));
/// The width below which no table is narrowed.
const MIN_TABLE_WIDTH: u16 = 72;
/// The height of a row in lines; longer text ends in `…`.
const MAX_LINES: usize = 3;

/// The width of a day, such as `2026-11-24`.
const DAY_WIDTH: u16 = 10;

/// A table with a header.
pub(super) struct Table {
    table: comfy_table::Table,
    /// The columns of times.
    times: Vec<usize>,
}

impl Table {
    /// Creates a table with these headers. `>` before a header aligns the column to the right. Where space
    /// is short, `~` marks a column of free text, which is narrowed, and `@` one of times, which take two
    /// lines.
    pub(super) fn new(headers: &[&'static str]) -> Self {
        let mut table = comfy_table::Table::new();
        table
            .load_style(TABLE)
            .set_content_arrangement(ContentArrangement::Dynamic)
            .set_truncation_indicator("…")
            .set_header(
                headers
                    .iter()
                    .map(|header| header.trim_start_matches(['>', '~', '@'])),
            );
        for (column, header) in table.column_iter_mut().zip(headers) {
            if header.starts_with('>') {
                column.set_cell_alignment(CellAlignment::Right);
            }
            if !header.starts_with(['~', '@']) {
                column.set_constraint(ColumnConstraint::ContentWidth);
            }
        }
        let columns = headers.iter().enumerate();
        let times = columns.filter(|(_, header)| header.starts_with('@'));
        Self {
            table,
            times: times.map(|(index, _)| index).collect(),
        }
    }

    /// Adds a row of unescaped texts.
    pub(super) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let mut row = Row::from(cells.into_iter().map(|cell| escaped(&cell)));
        row.max_height(MAX_LINES);
        self.table.add_row(row);
    }

    /// Renders a box in a terminal, fields between tabs in a pipe, and nothing without rows.
    pub(super) fn render(mut self, style: OutputStyle) -> String {
        if self.table.is_empty() {
            return String::new();
        }
        if !style.is_terminal {
            let header = self.table.header().into_iter();
            return plain(header.chain(self.table.row_iter()), "\t");
        }
        self.keep_days_whole();
        self.table.set_width(style.width.max(MIN_TABLE_WIDTH));
        let mut lines: Vec<String> = self.table.lines().collect();
        if let Some(header) = lines.get_mut(1).filter(|_| style.is_bold) {
            let cells = header.trim_matches('│').split('│');
            let cells: Vec<String> = cells
                .map(|cell| format!("\u{1b}[1m{cell}\u{1b}[0m"))
                .collect();
            *header = format!("│{}│", cells.join("│"));
        }
        lines.join("\n") + "\n"
    }

    /// Lets columns of times break between day and time only.
    fn keep_days_whole(&mut self) {
        let widths = self.table.column_max_content_widths();
        for index in &self.times {
            let Some(column) = self.table.column_mut(*index) else {
                continue;
            };
            let width = Width::Fixed(DAY_WIDTH + column.padding_width());
            column.set_constraint(match widths.get(*index) {
                Some(width_of_content) if *width_of_content > DAY_WIDTH => {
                    ColumnConstraint::LowerBoundary(width)
                }
                _ => ColumnConstraint::ContentWidth,
            });
        }
    }

    /// Renders the table, or a sentence if it has no rows.
    pub(super) fn render_or(self, sentence: &str, style: OutputStyle) -> String {
        match self.table.is_empty() {
            true => format!("{sentence}\n"),
            false => self.render(style),
        }
    }
}

/// The borders of panels.
const PANEL: TableStyle = TableStyle::new()
    .top_border(LineStyle::new('╭', '─', '─', '╮'))
    .content_lines(ContentLineStyle::new('│', ' ', '│'))
    .bottom_border(LineStyle::new('╰', '─', '─', '╯'));
/// The width below which no panel is narrowed.
const MIN_PANEL_WIDTH: usize = 40;

/// A titled box of names and values.
pub(super) struct Panel {
    title: &'static str,
    table: comfy_table::Table,
    /// The width of the widest value that must not be wrapped.
    copied_width: usize,
}

impl Panel {
    pub(super) fn new(title: &'static str) -> Self {
        let mut table = comfy_table::Table::new();
        table
            .load_style(PANEL)
            .set_content_arrangement(ContentArrangement::Dynamic);
        Self {
            title,
            table,
            copied_width: 0,
        }
    }

    /// Adds a value.
    pub(super) fn line(mut self, name: &'static str, value: impl ToString) -> Self {
        self.table.add_row([name, &escaped(&value.to_string())]);
        self
    }

    /// Adds a value that users copy: the box grows instead of wrapping it.
    pub(super) fn copied(mut self, name: &'static str, value: impl ToString) -> Self {
        self.copied_width = self.copied_width.max(value.to_string().width());
        self.line(name, value)
    }

    /// Renders a box in a terminal, and lines `NAME: VALUE` in a pipe.
    pub(super) fn render(mut self, style: OutputStyle) -> String {
        if !style.is_terminal {
            return plain(self.table.row_iter(), ": ");
        }
        let names = usize::from(self.table.column_max_content_widths()[0]);
        // The width of borders and padding.
        let frame = names + 6;
        let width = (frame + self.copied_width).max(MIN_PANEL_WIDTH);
        let values = (self.title.width() + 2).saturating_sub(names);
        self.table
            .set_width(style.width.max(u16::try_from(width).unwrap_or(u16::MAX)))
            .set_constraints([
                ColumnConstraint::ContentWidth,
                ColumnConstraint::LowerBoundary(Width::Fixed(values as u16)),
            ]);
        if let Some(names) = self.table.column_mut(0) {
            names.set_padding((1, 0));
        }
        let mut lines: Vec<String> = self.table.lines().collect();
        if let Some(top) = lines.first_mut() {
            let bar = top.width().saturating_sub(self.title.width() + 5);
            *top = format!("╭─ {} {}╮", self.title, "─".repeat(bar));
        }
        lines.join("\n") + "\n"
    }
}

/// Renders a line per row.
fn plain<'r>(rows: impl Iterator<Item = &'r Row>, separator: &str) -> String {
    let line = |row: &Row| {
        let cells: Vec<String> = row.cell_iter().map(Cell::content).collect();
        cells.join(separator) + "\n"
    };
    rows.map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TERMINAL: OutputStyle = OutputStyle::TERMINAL;
    const PIPE: OutputStyle = OutputStyle::PIPE;
    const NARROW: OutputStyle = OutputStyle {
        width: 40,
        ..TERMINAL
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
    fn pipe_gets_one_plain_line_per_row() {
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
        let bold = OutputStyle {
            is_bold: true,
            ..TERMINAL
        };
        let text = table("shop").render(bold);
        assert!(text.contains("│\u{1b}[1m id \u{1b}[0m│"), "{text}");
        assert_eq!(text.matches("\u{1b}[1m").count(), 3);
    }

    #[test]
    fn panels_fit_their_content_and_title() {
        assert_eq!(
            Panel::new("Key")
                .line("id", 7)
                .line("label", "a shop")
                .render(TERMINAL),
            "╭─ Key ─────────╮\n\
             │ id     7      │\n\
             │ label  a shop │\n\
             ╰───────────────╯\n"
        );
        assert_eq!(
            Panel::new("Policy reloaded")
                .line("in force", "yes")
                .render(TERMINAL),
            "╭─ Policy reloaded ─╮\n\
             │ in force  yes     │\n\
             ╰───────────────────╯\n"
        );
    }

    #[test]
    fn label_of_255_wide_characters_stays_within_its_column() {
        let text = table(&"宽".repeat(255)).render(TERMINAL);
        let widths: Vec<usize> = text.lines().map(UnicodeWidthStr::width).collect();
        assert!(
            widths
                .iter()
                .all(|width| *width == widths[0] && *width <= 80),
            "{widths:?}"
        );
        assert_eq!(text.lines().count(), 7);
        assert_eq!(text.matches('…').count(), 1);
        let panel = Panel::new("key").line("label", "宽".repeat(255));
        let panel = panel.render(NARROW);
        assert!(panel.lines().all(|line| line.width() <= 40), "{panel}");
    }

    #[test]
    fn text_breaks_at_spaces() {
        let panel = Panel::new("Lock").line("refuses", "the key of a shop, and all requests");
        assert_eq!(
            panel.render(NARROW),
            "╭─ Lock ───────────────────────────────╮\n\
             │ refuses  the key of a shop, and all  │\n\
             │          requests                    │\n\
             ╰──────────────────────────────────────╯\n"
        );
    }

    #[test]
    fn times_take_one_line_where_there_is_space() {
        let mut table = Table::new(&["~text", "@since"]);
        table.row(["x".into(), "2026-11-24 10:00".into()]);
        let text = table.render(TERMINAL);
        assert!(text.contains("│ x    │ 2026-11-24 10:00 │"), "{text}");
    }

    #[test]
    fn hostile_text_is_escaped() {
        let hostile = "a\u{1b}]0;title\u{7}b\nc\u{202e}d\u{200b}";
        for style in [TERMINAL, PIPE] {
            let text =
                table(hostile).render(style) + &Panel::new("p").line("x", hostile).render(style);
            assert!(
                !text.contains(['\u{1b}', '\u{7}', '\u{202e}', '\u{200b}']),
                "{text}"
            );
        }
        assert_eq!(escaped("a\u{1b}[m\n"), "a\\u{1b}[m\\n");
        assert_eq!(escaped("grün 宽 🦀"), "grün 宽 🦀");
    }

    #[test]
    fn key_is_never_cut() {
        let key = "k".repeat(200);
        let panel = Panel::new("key").copied("key", &key).render(TERMINAL);
        assert!(panel.contains(&key), "{panel}");
    }
}
