//! Days and times as text, for databases that keep or take them so.
//!
//! The calendar is the proleptic Gregorian one; the arithmetic follows Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms" (2013).

use std::fmt::Write;

pub(super) const DAY: i64 = 86_400_000_000;

/// Year, month and day of a number of days since 1970-01-01.
pub(super) fn civil(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = (month_from_march + 2) % 12 + 1;
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day)
}

/// The number of days since 1970-01-01.
pub(super) fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = year - i64::from(month <= 2);
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let month_from_march = (month + 9) % 12;
    let day_of_year = (153 * month_from_march + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

/// `2026-01-31`; `None` outside of the years 0 to 9999, which no text can tell.
pub(super) fn date(since: i64) -> Option<String> {
    let (year, month, day) = civil(since);
    (0..=9999)
        .contains(&year)
        .then(|| format!("{year:04}-{month:02}-{day:02}"))
}

/// `2026-01-31T23:59:59.123456`, with `between` for the `T`.
pub(super) fn moment(micros: i64, between: char) -> Option<String> {
    let mut text = date(micros.div_euclid(DAY))?;
    text.push(between);
    push_time(&mut text, micros.rem_euclid(DAY));
    Some(text)
}

/// `23:59:59.123456`; hours go on, and a sign stands before it, for spans.
pub(super) fn time(micros: i64) -> String {
    let mut text = String::new();
    if micros < 0 {
        text.push('-');
    }
    push_time(&mut text, micros.unsigned_abs().min(i64::MAX as u64) as i64);
    text
}

fn push_time(text: &mut String, micros: i64) {
    let (seconds, fraction) = (micros / 1_000_000, micros % 1_000_000);
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    let _ = write!(text, "{hours:02}:{minutes:02}:{seconds:02}.{fraction:06}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_and_dates_are_each_others_inverse() {
        let mut previous = None;
        for day in -719_528..=2_932_896 {
            let (year, month, of_month) = civil(day);
            assert_eq!(days(year, month, of_month), day);
            assert!((0..=9999).contains(&year));
            let now = (year, month, of_month);
            assert!(previous.is_none_or(|before| before < now), "{now:?}");
            previous = Some(now);
        }
        assert_eq!(date(0).as_deref(), Some("1970-01-01"));
        assert_eq!(date(11_016).as_deref(), Some("2000-02-29"));
        assert_eq!(date(2_932_897), None);
    }

    #[test]
    fn moments_are_written_to_the_microsecond() {
        assert_eq!(
            moment(-1, 'T').as_deref(),
            Some("1969-12-31T23:59:59.999999")
        );
        assert_eq!(
            moment(DAY, ' ').as_deref(),
            Some("1970-01-02 00:00:00.000000")
        );
        assert_eq!(time(-3_600_000_001), "-01:00:00.000001");
        assert_eq!(time(DAY + 5), "24:00:00.000005");
    }
}
