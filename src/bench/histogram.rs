//! Latencies in buckets: exact to 1.6 % from 1 ns to hours, one addition a value, no allocation after the start.

use serde::Serialize;

/// Buckets of each power of two.
const FINE_BITS: u32 = 6;
const FINE: u64 = 1 << FINE_BITS;
const BUCKETS: usize = ((64 - FINE_BITS as usize) + 1) << FINE_BITS;

/// How often which value came.
#[derive(Clone, Debug)]
pub(super) struct Histogram {
    counts: Vec<u64>,
    total: u64,
    max: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            counts: vec![0; BUCKETS],
            total: 0,
            max: 0,
        }
    }
}

fn bucket(value: u64) -> usize {
    if value < FINE {
        return value as usize;
    }
    let shift = value.ilog2() - FINE_BITS;
    (((u64::from(shift) + 1) << FINE_BITS) + ((value >> shift) - FINE)) as usize
}

/// The largest value of a bucket.
fn upper(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < FINE {
        return bucket;
    }
    let shift = (bucket >> FINE_BITS) - 1;
    let base = (FINE + (bucket & (FINE - 1))) << shift;
    base + ((1 << shift) - 1)
}

impl Histogram {
    /// Counts a value, in nanoseconds.
    pub(super) fn record(&mut self, value: u64) {
        if let Some(count) = self.counts.get_mut(bucket(value)) {
            *count += 1;
        }
        self.total += 1;
        self.max = self.max.max(value);
    }

    /// Adds what another one counted.
    pub(super) fn add(&mut self, other: &Self) {
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count += more;
        }
        self.total += other.total;
        self.max = self.max.max(other.max);
    }

    /// Values counted.
    pub(super) const fn total(&self) -> u64 {
        self.total
    }

    /// The value that a share of all does not exceed.
    pub(super) fn quantile(&self, share: f64) -> u64 {
        let wanted = ((self.total as f64 * share).ceil() as u64).clamp(1, self.total.max(1));
        let mut seen = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                return upper(bucket).min(self.max);
            }
        }
        self.max
    }

    /// The usual percentiles; `None` if nothing was counted.
    pub(super) fn percentiles(&self) -> Option<Percentiles> {
        let micros = |share| self.quantile(share) as f64 / 1_000.0;
        (self.total > 0).then(|| Percentiles {
            p50: micros(0.5),
            p90: micros(0.9),
            p99: micros(0.99),
            p999: micros(0.999),
            max: self.max as f64 / 1_000.0,
        })
    }
}

/// Percentiles, in microseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Percentiles {
    /// Half of all are at most this.
    pub(super) p50: f64,
    /// 90 %.
    pub(super) p90: f64,
    /// 99 %.
    pub(super) p99: f64,
    /// 99.9 %.
    pub(super) p999: f64,
    /// The largest.
    pub(super) max: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_lies_in_a_bucket_that_ends_close_above_it() {
        for value in (0..2_000).chain((11..63).flat_map(|bit| [(1 << bit) - 1, 1 << bit, (1 << bit) + 1])) {
            let upper = upper(bucket(value));
            assert!(upper >= value, "{value}");
            assert!((upper - value) as f64 <= value as f64 / 32.0, "{value} {upper}");
        }
        assert!(bucket(u64::MAX) < BUCKETS);
    }

    #[test]
    fn quantiles_are_those_of_what_was_counted() {
        let mut histogram = Histogram::default();
        for value in 1..=1_000_u64 {
            histogram.record(value * 1_000);
        }
        let near = |value: u64, wanted: u64| (value as f64 / wanted as f64 - 1.0).abs() < 0.02;
        assert!(near(histogram.quantile(0.5), 500_000));
        assert!(near(histogram.quantile(0.99), 990_000));
        assert_eq!(histogram.quantile(1.0), 1_000_000);
        assert!(Histogram::default().percentiles().is_none());
    }
}
