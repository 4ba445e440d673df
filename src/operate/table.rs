//! Columns of text, and figures as people read them.

use std::ops::Range;

use serde_json::Value;

/// Rows under titles; columns are as wide as their widest cell.
pub(super) struct Table<const N: usize> {
    rows: Vec<[String; N]>,
    /// Columns of figures, which stand at the right.
    right: Range<usize>,
}

impl<const N: usize> Table<N> {
    pub(super) fn new(titles: [&str; N]) -> Self {
        Self { rows: vec![titles.map(str::to_owned)], right: 0..0 }
    }

    /// Columns from one on to before another hold figures.
    pub(super) fn figures(mut self, columns: Range<usize>) -> Self {
        self.right = columns;
        self
    }

    pub(super) fn row(&mut self, cells: [String; N]) {
        self.rows.push(cells.map(|cell| printable(&cell)));
    }

    pub(super) fn finish(&self) -> String {
        let mut widths = [0; N];
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let mut text = String::new();
        for row in &self.rows {
            let cells = row.iter().zip(widths).enumerate();
            let line: String = cells
                .map(|(column, (cell, width))| match self.right.contains(&column) {
                    true => format!("{cell:>width$}  "),
                    false => format!("{cell:<width$}  "),
                })
                .collect();
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// A client chooses its identifier and topics: what would steer a terminal is not printed.
pub(super) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// A value without quotes; nothing for null.
pub(super) fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => printable(text),
        other => other.to_string(),
    }
}

/// Seconds as days, hours, minutes, seconds: the two largest that are not zero.
pub(super) fn seconds(value: &Value) -> String {
    let all = value.as_f64().unwrap_or(0.0) as u64;
    let parts =
        [(all / 86_400, "d"), (all / 3600 % 24, "h"), (all / 60 % 60, "m"), (all % 60, "s")];
    let shown = parts.iter().skip_while(|(count, _)| *count == 0).take(2);
    let shown: Vec<String> = shown.map(|(count, unit)| format!("{count}{unit}")).collect();
    if shown.is_empty() { "0s".to_owned() } else { shown.join(" ") }
}

/// A figure with four places at most.
pub(super) fn count(figure: f64) -> String {
    match figure {
        ..10_000.0 => format!("{figure:.0}"),
        ..1_000_000.0 => format!("{:.1}k", figure / 1e3),
        _ => format!("{:.1}M", figure / 1e6),
    }
}

/// Microseconds with the unit that suits them.
pub(super) fn micros(figure: f64) -> String {
    match figure {
        ..1_000.0 => format!("{figure:.0} µs"),
        ..1_000_000.0 => format!("{:.1} ms", figure / 1e3),
        _ => format!("{:.1} s", figure / 1e6),
    }
}

/// Bytes with a binary unit.
pub(super) fn bytes(value: &Value) -> String {
    let mut amount = value.as_f64().unwrap_or(0.0);
    for unit in ["B", "KiB", "MiB"] {
        if amount < 1024.0 {
            return format!("{amount:.0} {unit}");
        }
        amount /= 1024.0;
    }
    format!("{amount:.1} GiB")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn figures_are_short() {
        assert_eq!(seconds(&json!(93_784.9)), "1d 2h");
        assert_eq!(seconds(&json!(0.4)), "0s");
        assert_eq!(seconds(&json!(3600)), "1h 0m");
        assert_eq!((count(9999.0).as_str(), count(12_345.0).as_str()), ("9999", "12.3k"));
        assert_eq!((micros(999.0).as_str(), micros(1500.0).as_str()), ("999 µs", "1.5 ms"));
        assert_eq!(bytes(&json!(2048)), "2 KiB");
        assert_eq!(bytes(&json!(3_221_225_472_u64)), "3.0 GiB");
    }

    #[test]
    fn columns_line_up_and_nothing_steers_the_terminal() {
        let mut table = Table::new(["client", "n"]);
        table.row(["\u{1b}[2Jlong-name".into(), "1".into()]);
        assert_eq!(table.finish(), "client         n\n\u{fffd}[2Jlong-name  1\n");
        let mut table = Table::new(["client", "queued"]).figures(1..2);
        table.row(["c".into(), "12".into()]);
        assert_eq!(table.finish(), "client  queued\nc           12\n");
    }
}
