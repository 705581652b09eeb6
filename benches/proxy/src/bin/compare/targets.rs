//! What is aimed at, and whether it was reached.

use std::fmt::Write;

use bursar_bench_proxy::order::Measured;

use crate::figures::{Figures, Spread};
use crate::rows::Row;
use crate::tests::Test;

/// A bound on what bursar does.
enum Bound {
    AtMost(f64),
    Below(f64),
    AtLeast(f64),
}

impl Bound {
    fn holds(&self, value: f64) -> bool {
        match self {
            Self::AtMost(most) => value <= *most,
            Self::Below(bound) => value < *bound,
            Self::AtLeast(least) => value >= *least,
        }
    }

    fn text(&self) -> String {
        match self {
            Self::AtMost(most) => format!("<= {most}"),
            Self::Below(bound) => format!("< {bound}"),
            Self::AtLeast(least) => format!(">= {least}"),
        }
    }
}

pub(crate) fn of(figures: &Figures) -> String {
    let mut targets = Targets {
        figures,
        text: String::new(),
    };
    let _ = writeln!(
        targets.text,
        "\n{:<62}{:>9}{:>19}   target",
        "Targets", "bursar", "least - most"
    );
    let cpu = Measured::cpu_per_10k;
    for test in [
        Test::KeepAlive1,
        Test::KeepAlive16,
        Test::KeepAlive128,
        Test::H2One,
        Test::H2Sixteen,
    ] {
        targets.ratio(test, "CPU", Row::Parse, cpu, Bound::AtMost(1.05));
        targets.ratio(test, "CPU", Row::Hudsucker, cpu, Bound::Below(1.0));
    }
    for test in [Test::KeepAlive1, Test::NewHost] {
        targets.figure(test, Row::Parse, Bound::AtMost(1.05));
        targets.figure(test, Row::Hudsucker, Bound::AtMost(1.0));
    }
    targets.figure(Test::KnownHost, Row::Direct, Bound::AtMost(1.1));
    targets.figure(Test::KnownHost8, Row::Hudsucker, Bound::AtLeast(1.0));
    for test in [Test::Body64k, Test::Body10m] {
        targets.figure(test, Row::Hudsucker, Bound::AtLeast(0.95));
    }
    targets.figure(Test::Idle, Row::Parse, Bound::AtMost(0.7));
    targets.hosts();
    for test in [Test::Sse, Test::WebSocket] {
        targets.added(test);
    }
    targets.text
}

struct Targets<'a> {
    figures: &'a Figures,
    text: String,
}

impl Targets<'_> {
    fn figure(&mut self, test: Test, base: Row, bound: Bound) {
        let figure = test.figure();
        self.ratio(test, figure.unit(), base, move |measured| figure.of(measured), bound);
    }

    fn ratio(&mut self, test: Test, what: &str, base: Row, of: impl Fn(&Measured) -> Option<f64>, bound: Bound) {
        let ratio = self.figures.ratio(test, (Row::Bursar, base), of);
        self.line(&format!("{}: {what} / {}", test.title(), base.name()), ratio, 2, &bound);
    }

    fn hosts(&mut self) {
        let kept = self
            .figures
            .each(Test::Hosts, Row::Bursar, |measured| Test::Hosts.figure().of(measured));
        let what = format!("{}: {}", Test::Hosts.title(), Test::Hosts.figure().unit());
        self.line(&what, kept, 1, &Bound::AtMost(4.0));
    }

    fn added(&mut self, test: Test) {
        let of = |measured: &Measured| test.figure().of(measured);
        let added = self
            .figures
            .paired(test, (Row::Bursar, Row::Direct), of, |through, direct| through - direct);
        self.line(
            &format!("{}: added p50, us", test.title()),
            added,
            0,
            &Bound::AtMost(100.0),
        );
    }

    fn line(&mut self, what: &str, spread: Option<Spread>, digits: usize, bound: &Bound) {
        let (value, range, verdict) = match spread {
            None => ("-".to_owned(), String::new(), "not measured"),
            Some(Spread { median, least, most }) => (
                format!("{median:.digits$}"),
                format!("{least:.digits$} - {most:.digits$}"),
                if bound.holds(median) { "met" } else { "MISSED" },
            ),
        };
        let _ = writeln!(
            self.text,
            "  {what:<60}{value:>9}{range:>19}   {}: {verdict}",
            bound.text()
        );
    }
}

#[cfg(test)]
mod tests {
    use super::Bound;

    #[test]
    fn a_bound_is_met_up_to_itself_unless_it_must_be_below() {
        assert!(Bound::AtMost(1.05).holds(1.05) && !Bound::AtMost(1.05).holds(1.06));
        assert!(!Bound::Below(1.0).holds(1.0) && Bound::Below(1.0).holds(0.99));
        assert!(Bound::AtLeast(0.95).holds(0.95) && !Bound::AtLeast(0.95).holds(0.94));
    }
}
