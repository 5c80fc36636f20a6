//! Chance that a seed repeats.

/// SplitMix64: the same numbers from the same seed, for ever.
#[derive(Debug, Clone)]
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `end`, which is above 0.
    pub(crate) fn below(&mut self, end: i64) -> i64 {
        (self.next() >> 1) as i64 % end
    }

    /// Whether something of this many per mille happens.
    pub(crate) fn happens(&mut self, per_mille: i64) -> bool {
        self.below(1_000) < per_mille
    }
}
