//! Durations as people read them.

/// The units of a duration, the largest first, each with its length in seconds.
const UNITS: [(u64, &str); 4] = [(86_400, "d"), (3_600, "h"), (60, "m"), (1, "s")];

/// A duration in its two largest units, such as `6d 23h` or `59m 41s`.
pub fn in_two_units(seconds: u64) -> String {
    let mut rest = seconds;
    let mut parts = Vec::new();
    for (length, name) in UNITS {
        let count = rest / length;
        rest %= length;
        // A unit follows directly on the larger one, or not at all: `6d 3m` would suggest a precision that `6d 23h` lacks.
        if parts.len() == 1 {
            parts.push((count, name));
            break;
        }
        if count > 0 {
            parts.push((count, name));
        }
    }
    let shown: Vec<String> =
        parts.iter().filter(|(count, _)| *count > 0).map(|(count, name)| format!("{count}{name}")).collect();
    if shown.is_empty() { "0s".into() } else { shown.join(" ") }
}

#[cfg(test)]
mod tests {
    use super::in_two_units;

    #[test]
    fn a_duration_has_its_two_largest_units() {
        for (seconds, text) in [
            (0, "0s"),
            (59, "59s"),
            (60, "1m"),
            (3_581, "59m 41s"),
            (3_600, "1h"),
            (7_199, "1h 59m"),
            (86_400 + 30, "1d"),
            (6 * 86_400 + 23 * 3_600 + 59 * 60, "6d 23h"),
            (296 * 86_400, "296d"),
            (u64::MAX, "213503982334601d 7h"),
        ] {
            assert_eq!(in_two_units(seconds), text);
        }
    }
}
