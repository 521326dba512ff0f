//! Moments for people.

/// Milliseconds since 1970 as `2026-11-21 17:05:09Z`.
pub(crate) fn moment(millis: u64) -> String {
    let seconds = millis / 1000;
    let (year, month, day) = civil(seconds / 86_400);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}Z")
}

/// This moment.
pub(crate) fn now() -> String {
    moment(sinew_core::Clock::system().now().as_millis())
}

/// Days since 1970 as a date of the Gregorian calendar: Howard Hinnant, "chrono-Compatible Low-Level
/// Date Algorithms" (`civil_from_days`), for days that are not before 1970.
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = match shifted_month {
        0..10 => shifted_month + 3,
        _ => shifted_month - 9,
    };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    #[test]
    fn moments_read_well() {
        let shown = [0, 951_782_400_000, 1_795_280_709_999].map(super::moment);
        assert_eq!(
            shown,
            [
                "1970-01-01 00:00:00Z",
                "2000-02-29 00:00:00Z",
                "2026-11-21 17:05:09Z"
            ]
        );
    }
}
