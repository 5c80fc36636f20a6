//! Durations as people write them.

use std::time::Duration;

/// The longest duration of a sweep file.
pub(super) const MAX: Duration = Duration::from_secs(30 * 24 * 3600);

/// An integer and a unit: `ms`, `s`, `m`, `h` or `d`.
pub(super) fn parse(text: &str) -> Option<Duration> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let milliseconds: u64 = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    // Beyond 64 bits it is beyond every bound too.
    match number.parse::<u64>() {
        Ok(number) => Some(Duration::from_millis(number.saturating_mul(milliseconds))),
        Err(_) if !number.is_empty() => Some(Duration::MAX),
        Err(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units() {
        for (text, seconds) in [("30s", 30), ("15m", 900), ("3h", 10_800), ("2d", 172_800), ("0s", 0)] {
            assert_eq!(parse(text), Some(Duration::from_secs(seconds)), "{text}");
        }
        assert_eq!(parse("250ms"), Some(Duration::from_millis(250)));
        for text in ["", "s", "3", "3 h", "1.5h", "-3s", "3hours", "h3", "+3s", "３s"] {
            assert_eq!(parse(text), None, "{text}");
        }
        assert!(parse("99999999999999999999999d").unwrap() > MAX);
    }
}
