//! Randomness from a seed that can be set, so that a failure can be repeated as far as the machine allows.

/// `SplitMix64`.
#[derive(Clone)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// `EVERMQ_CRASH_SEED`, or the clock.
    pub(crate) fn seed() -> u64 {
        let given = std::env::var("EVERMQ_CRASH_SEED").ok();
        let seed = given.map(|text| text.parse().expect("EVERMQ_CRASH_SEED is a number"));
        seed.unwrap_or_else(|| {
            let epoch = std::time::UNIX_EPOCH.elapsed().expect("a clock after 1970");
            epoch.as_nanos() as u64
        })
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number from `low` to `high`, both included.
    pub(crate) fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.next() % (high - low + 1)
    }

    pub(crate) fn one_in(&mut self, count: u64) -> bool {
        self.next().is_multiple_of(count)
    }

    /// A generator of its own for somebody.
    pub(crate) fn fork(&mut self) -> Self {
        Self(self.next())
    }
}
