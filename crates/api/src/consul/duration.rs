//! Durations as Go writes them: `1h30m`, `1.5s`, `500ms`.

use std::time::Duration;

/// Reads one, if it is one and not negative. Without a unit only `0` is.
pub(super) fn parse(text: &str) -> Option<Duration> {
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Some(Duration::ZERO);
    }
    let mut seconds = 0.0;
    loop {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .filter(|at| *at > 0)?;
        let (number, unit) = rest.split_at(digits);
        let number: f64 = number.parse().ok()?;
        let end = unit
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(unit.len());
        let (unit, next) = unit.split_at(end);
        seconds += number
            * match unit {
                "ns" => 1e-9,
                "us" | "µs" | "μs" => 1e-6,
                "ms" => 1e-3,
                "s" => 1.0,
                "m" => 60.0,
                "h" => 3600.0,
                _ => return None,
            };
        if next.is_empty() {
            return Duration::try_from_secs_f64(seconds).ok();
        }
        rest = next;
    }
}

/// Writes one in hours, minutes and seconds, as Go does: `1m0s`.
pub(super) fn show(duration: Duration) -> String {
    let (whole, nanos) = (duration.as_secs(), duration.subsec_nanos());
    let (hours, minutes, seconds) = (whole / 3600, whole / 60 % 60, whole % 60);
    if whole == 0 && nanos > 0 {
        return format!("{}ms", f64::from(nanos) / 1e6);
    }
    let fraction = f64::from(nanos) / 1e9;
    #[expect(clippy::cast_precision_loss, reason = "it is less than 60")]
    let seconds = seconds as f64 + fraction;
    match (hours, minutes) {
        (0, 0) => format!("{seconds}s"),
        (0, _) => format!("{minutes}m{seconds}s"),
        _ => format!("{hours}h{minutes}m{seconds}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_go_reads_and_writes_them() {
        for (text, millis, shown) in [
            ("10s", 10_000, "10s"),
            ("1h30m", 5_400_000, "1h30m0s"),
            ("1.5s", 1_500, "1.5s"),
            ("90s", 90_000, "1m30s"),
            ("500ms", 500, "500ms"),
            ("0", 0, "0s"),
            ("1m0.25s", 60_250, "1m0.25s"),
        ] {
            let duration = parse(text).unwrap();
            assert_eq!(duration.as_millis(), millis, "{text}");
            assert_eq!(show(duration), shown);
        }
        assert_eq!(parse("15µs"), Some(Duration::from_micros(15)));
        for bad in [
            "",
            "s",
            "10",
            "-1s",
            "1 s",
            "1d",
            "1..5s",
            "1e9h",
            "999999999999999999999h",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
