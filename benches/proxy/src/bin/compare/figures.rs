//! Medians over the rounds, and ratios within them.

use bursar_bench_proxy::order::Measured;

use crate::rounds::Record;
use crate::rows::Row;
use crate::tests::Test;

pub(crate) struct Figures {
    records: Vec<Record>,
}

/// Several values of the same thing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) least: f64,
    pub(crate) most: f64,
}

impl Figures {
    pub(crate) fn new(records: Vec<Record>) -> Self {
        Self { records }
    }

    /// A figure of each round in which it could be measured.
    pub(crate) fn each(&self, test: Test, row: Row, of: impl Fn(&Measured) -> Option<f64>) -> Option<Spread> {
        Spread::of(
            self.rounds(test, row)
                .filter_map(|(_, measured)| of(measured))
                .collect(),
        )
    }

    /// A figure of two rows of the same round, put together.
    pub(crate) fn paired(
        &self,
        test: Test,
        (row, other): (Row, Row),
        of: impl Fn(&Measured) -> Option<f64>,
        with: impl Fn(f64, f64) -> f64,
    ) -> Option<Spread> {
        let pairs = self.rounds(test, row).filter_map(|(round, measured)| {
            let (_, beside) = self.rounds(test, other).find(|(of_other, _)| *of_other == round)?;
            Some(with(of(measured)?, of(beside)?))
        });
        Spread::of(pairs.filter(|value| value.is_finite()).collect())
    }

    pub(crate) fn ratio(&self, test: Test, rows: (Row, Row), of: impl Fn(&Measured) -> Option<f64>) -> Option<Spread> {
        self.paired(test, rows, of, |figure, beside| figure / beside)
    }

    pub(crate) fn failures(&self, test: Test, row: Row) -> u64 {
        let of_test = self
            .records
            .iter()
            .filter(|record| record.test == test && record.row == row);
        of_test
            .map(|record| record.measured.as_ref().map_or(1, |measured| measured.failed))
            .sum()
    }

    /// Memory for each host before the rest.
    pub(crate) fn unrested(&self, row: Row) -> Option<f64> {
        let record = self
            .records
            .iter()
            .find(|record| record.test == Test::Hosts && record.row == row)?;
        let before = record.measured.as_ref().ok()?.pss_before_kib?;
        Some((record.pss_unrested_kib? as f64 - before as f64) / f64::from(crate::tests::VISITED))
    }

    /// Of any row, with its name.
    pub(crate) fn first_failure(&self) -> Option<String> {
        self.records.iter().find_map(|record| {
            let failure = match &record.measured {
                Ok(measured) => measured.first_failure.as_ref()?,
                Err(failure) => failure,
            };
            Some(format!("{}, {}: {failure}", record.row.name(), record.test.name()))
        })
    }

    fn rounds(&self, test: Test, row: Row) -> impl Iterator<Item = (usize, &Measured)> {
        let of_test = self
            .records
            .iter()
            .filter(move |record| record.test == test && record.row == row);
        of_test.filter_map(|record| Some((record.round, record.measured.as_ref().ok()?)))
    }
}

impl Spread {
    fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let (least, most) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let median = match values.len() % 2 {
            0 => (values[middle - 1] + values[middle]) / 2.0,
            _ => values[middle],
        };
        Some(Self { median, least, most })
    }
}

#[cfg(test)]
mod tests {
    use super::Spread;

    #[test]
    fn the_median_of_an_even_number_is_between_the_two_in_the_middle() {
        let spread = Spread::of(vec![4.0, 1.0, 3.0, 2.0]).unwrap();
        assert_eq!((spread.least, spread.median, spread.most), (1.0, 2.5, 4.0));
        assert_eq!(Spread::of(vec![7.0]).unwrap().median, 7.0);
        assert_eq!(Spread::of(Vec::new()), None);
    }
}
