//! Medians and ratios of one scenario as a markdown table.

use std::fmt::Write;

use crate::{
    compare::{Found, Sample, definition::Definition, scenario::Scenario},
    stats::Percentiles,
};

/// A column: its heading, its figure in a run, and how many digits to show.
struct Column {
    name: &'static str,
    figure: fn(&Sample) -> Option<f64>,
    digits: usize,
}

const COLUMNS: &[Column] = &[
    Column { name: "messages/s", figure: messages_per_s, digits: 0 },
    Column { name: "CPU µs/message", figure: |s| s.cpu_us, digits: 2 },
    Column { name: "user", figure: |s| s.user_us, digits: 2 },
    Column { name: "system", figure: |s| s.system_us, digits: 2 },
    Column { name: "p50 µs", figure: |s| Some(times(s)?.p50_us as f64), digits: 0 },
    Column { name: "p99 µs", figure: |s| Some(times(s)?.p99_us as f64), digits: 0 },
    Column { name: "p99.9 µs", figure: |s| Some(times(s)?.p999_us as f64), digits: 0 },
    Column { name: "connects/s", figure: connects_per_s, digits: 0 },
    Column { name: "CPU µs/connect", figure: |s| per_client(s, s.connect_cpu_us), digits: 1 },
    Column { name: "B/connection", figure: |s| per_client(s, s.connection_bytes), digits: 0 },
    Column { name: "CPU µs/filter", figure: |s| per_filter(s, s.connect_cpu_us), digits: 2 },
    Column { name: "B/filter", figure: |s| per_filter(s, s.connection_bytes), digits: 0 },
    Column { name: "RSS MiB", figure: |s| Some(s.resident_bytes as f64 / 1_048_576.0), digits: 1 },
    Column { name: "generator busy %", figure: |s| Some(s.outcome.load_busy * 100.0), digits: 0 },
];

fn messages_per_s(sample: &Sample) -> Option<f64> {
    let outcome = &sample.outcome;
    let rate = if outcome.subscribers > 0 { outcome.received_per_s } else { outcome.sent_per_s };
    (rate > 0.0).then_some(rate)
}

fn connects_per_s(sample: &Sample) -> Option<f64> {
    per_client(sample, Some(sample.outcome.connects_per_s))
}

/// `figure`, unless most of it is for the client's many filters.
fn per_client(sample: &Sample, figure: Option<f64>) -> Option<f64> {
    figure.filter(|_| sample.outcome.filters_each <= 1)
}

/// `figure` divided among the client's filters, where those are many. Clients that only publish
/// are too few to count.
fn per_filter(sample: &Sample, figure: Option<f64>) -> Option<f64> {
    let outcome = &sample.outcome;
    let filters = (outcome.filters_each * outcome.subscribers) as f64;
    Some(figure? * outcome.connected as f64 / filters).filter(|_| outcome.filters_each > 1)
}

fn times(sample: &Sample) -> Option<&Percentiles> {
    sample.outcome.latency.as_ref().or(sample.outcome.acknowledge.as_ref())
}

/// One row per broker with the medians of its runs; in the rows below the first, the ratio to
/// the first stands behind each figure. Who could not play and broken promises follow the table.
pub(crate) fn markdown(scenario: &Scenario, brokers: &[Definition], found: &Found) -> String {
    let samples = &found.samples;
    let names: Vec<_> = brokers.iter().map(|broker| broker.name.as_str()).collect();
    let of = |name: &str| samples.iter().filter(|sample| sample.broker == name).collect::<Vec<_>>();
    let rows: Vec<(&str, Vec<Option<f64>>)> =
        names.iter().map(|&name| (name, medians(&of(name)))).collect();
    let command = samples.first().map_or("", |sample| sample.command.as_str());
    let mut text = format!("### {}\n\n`{command}`\n\n", scenario.name);
    let shown: Vec<_> =
        (0..COLUMNS.len()).filter(|&at| rows.iter().any(|(_, row)| row[at].is_some())).collect();
    write_row(&mut text, "broker", shown.iter().map(|&at| COLUMNS[at].name.to_owned()));
    write_row(&mut text, "---", shown.iter().map(|_| "--:".to_owned()));
    for (number, (name, row)) in rows.iter().enumerate() {
        let first = (number > 0).then(|| &rows[0].1);
        let cell = |at: usize| cell(row[at], first.and_then(|first| first[at]), COLUMNS[at].digits);
        write_row(&mut text, name, shown.iter().map(|&at| cell(at)));
    }
    for absent in &found.absent {
        let _ = write!(text, "\nCANNOT: {}: {}", absent.broker, absent.cannot);
    }
    let unplaced = samples.iter().filter(|s| s.round == 0 && s.placed == Some(false));
    unplaced.for_each(|sample| {
        let _ = write!(text, "\nNOT PLACED: {}: it does not tell where clients are", sample.broker);
    });
    for sample in samples.iter().filter(|sample| !sample.outcome.broken.is_empty()) {
        let broken = sample.outcome.broken.join(", ");
        let _ = write!(text, "\nBROKEN: {} in round {}: {broken}", sample.broker, sample.round);
        for (error, count) in &sample.outcome.errors {
            let _ = write!(text, "; {count} x {error}");
        }
    }
    text
}

fn write_row(text: &mut String, head: &str, cells: impl Iterator<Item = String>) {
    // Writing to a String cannot fail.
    let _ = write!(text, "| {head} |");
    cells.for_each(|cell| {
        let _ = write!(text, " {cell} |");
    });
    text.push('\n');
}

fn cell(figure: Option<f64>, first: Option<f64>, digits: usize) -> String {
    let Some(figure) = figure else { return "-".to_owned() };
    match first {
        Some(first) if first > 0.0 => format!("{figure:.digits$} ({:.2}x)", figure / first),
        _ => format!("{figure:.digits$}"),
    }
}

fn medians(samples: &[&Sample]) -> Vec<Option<f64>> {
    COLUMNS
        .iter()
        .map(|column| median(samples.iter().filter_map(|s| (column.figure)(s)).collect()))
        .collect()
}

fn median(mut figures: Vec<f64>) -> Option<f64> {
    figures.sort_by(f64::total_cmp);
    let middle = figures.len() / 2;
    match figures.len() {
        0 => None,
        count if count % 2 == 1 => Some(figures[middle]),
        _ => Some(f64::midpoint(figures[middle - 1], figures[middle])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_or_the_mean_of_both() {
        assert_eq!(median(vec![]), None);
        assert_eq!(median(vec![3.0, 1.0, 9.0]), Some(3.0));
        assert_eq!(median(vec![4.0, 1.0, 2.0, 9.0]), Some(3.0));
    }

    #[test]
    fn a_ratio_stands_behind_the_figures_of_the_others() {
        assert_eq!(cell(Some(2.5), None, 2), "2.50");
        assert_eq!(cell(Some(10.0), Some(2.5), 1), "10.0 (4.00x)");
        assert_eq!(cell(Some(10.0), Some(0.0), 0), "10");
        assert_eq!(cell(None, Some(1.0), 0), "-");
    }
}
