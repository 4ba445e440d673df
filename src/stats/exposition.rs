//! The text in which Prometheus reads figures: its own format 0.0.4, or OpenMetrics 1.0.
//!
//! A family is begun once, then its samples follow. The two formats differ in the name of a
//! counter's family, in the content type and in the last line.

use std::fmt::Write as _;

/// Which of the two is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Prometheus,
    OpenMetrics,
}

impl Format {
    /// What the `Accept` header of a scrape asks for.
    pub fn accepted(accept: &str) -> Self {
        match accept.contains("application/openmetrics-text") {
            true => Self::OpenMetrics,
            false => Self::Prometheus,
        }
    }

    pub fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// Label names with their values.
pub type Labels<'a> = &'a [(&'a str, &'a str)];

/// Text being written. Scope: one scrape.
#[derive(Debug)]
pub struct Exposition {
    format: Format,
    text: String,
    name: String,
}

impl Exposition {
    pub fn new(format: Format) -> Self {
        Self { format, text: String::new(), name: String::new() }
    }

    /// Begins a family of counters; `name` is without `_total`.
    pub fn counter(&mut self, name: &str, help: &str) {
        let family = match self.format {
            Format::Prometheus => format!("{name}_total"),
            Format::OpenMetrics => name.to_owned(),
        };
        self.family(&family, "counter", help);
        self.name = format!("{name}_total");
    }

    pub fn gauge(&mut self, name: &str, help: &str) {
        self.family(name, "gauge", help);
        name.clone_into(&mut self.name);
    }

    /// Begins a family of histograms, for [`Self::buckets`].
    pub fn histogram(&mut self, name: &str, help: &str) {
        self.family(name, "histogram", help);
        name.clone_into(&mut self.name);
    }

    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    /// A sample of the family begun last.
    pub fn sample(&mut self, labels: Labels<'_>, value: f64) {
        self.line("", labels, None, value);
    }

    /// A histogram of the family begun last.
    ///
    /// - `below`: ends of buckets with the count below each, rising.
    pub fn buckets(
        &mut self,
        labels: Labels<'_>,
        below: impl IntoIterator<Item = (f64, u64)>,
        count: u64,
        sum: f64,
    ) {
        for (end, below) in below {
            self.line("_bucket", labels, Some(&end.to_string()), below as f64);
        }
        self.line("_bucket", labels, Some("+Inf"), count as f64);
        self.line("_sum", labels, None, sum);
        self.line("_count", labels, None, count as f64);
    }

    fn line(&mut self, suffix: &str, labels: Labels<'_>, le: Option<&str>, value: f64) {
        self.text.push_str(&self.name);
        self.text.push_str(suffix);
        let le = le.map(|end| ("le", end));
        let mut before = '{';
        for (name, value) in labels.iter().copied().chain(le) {
            let _ = write!(self.text, "{before}{name}=\"{}\"", escaped(value));
            before = ',';
        }
        if before == ',' {
            self.text.push('}');
        }
        let _ = writeln!(self.text, " {value}");
    }

    /// The whole text.
    pub fn finish(mut self) -> String {
        if self.format == Format::OpenMetrics {
            self.text.push_str("# EOF\n");
        }
        self.text
    }
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(format: Format) -> String {
        let mut text = Exposition::new(format);
        text.counter("octopus_messages", "Messages.");
        text.sample(&[("shard", "0"), ("why", "a\"b\\c")], 3.0);
        text.gauge("octopus_up", "Whether it runs.");
        text.sample(&[], 1.0);
        text.histogram("octopus_wait_seconds", "Waiting.");
        text.buckets(&[], [(0.5, 1)], 2, 1.25);
        text.finish()
    }

    #[test]
    fn both_formats_are_written_as_specified() {
        let prometheus = sample(Format::Prometheus);
        let expected = "# HELP octopus_messages_total Messages.\n\
            # TYPE octopus_messages_total counter\n\
            octopus_messages_total{shard=\"0\",why=\"a\\\"b\\\\c\"} 3\n\
            # HELP octopus_up Whether it runs.\n\
            # TYPE octopus_up gauge\n\
            octopus_up 1\n\
            # HELP octopus_wait_seconds Waiting.\n\
            # TYPE octopus_wait_seconds histogram\n\
            octopus_wait_seconds_bucket{le=\"0.5\"} 1\n\
            octopus_wait_seconds_bucket{le=\"+Inf\"} 2\n\
            octopus_wait_seconds_sum 1.25\n\
            octopus_wait_seconds_count 2\n";
        assert_eq!(prometheus, expected);
        let open = sample(Format::OpenMetrics);
        assert!(open.contains("# TYPE octopus_messages counter\noctopus_messages_total{"));
        assert!(open.ends_with("# EOF\n"));
    }

    #[test]
    fn the_accept_header_chooses() {
        let prometheus = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;q=0.3";
        assert_eq!(Format::accepted(prometheus), Format::OpenMetrics);
        assert_eq!(Format::accepted("*/*"), Format::Prometheus);
    }
}
