//! Days and moments as people write them, UTC.

/// Seconds of a day.
pub(super) const DAY_S: u64 = 86_400;

/// Days since 1970-01-01 of a date of the years 1970 to 9999; `None` for anything else.
pub(super) fn day_of(text: &str) -> Option<u64> {
    let digits = |range: std::ops::Range<usize>| text.get(range).filter(|part| part.bytes().all(|byte| byte.is_ascii_digit()));
    if text.len() != 10 || text.get(4..5)? != "-" || text.get(7..8)? != "-" {
        return None;
    }
    let (year, month, day): (u64, u64, u64) = (digits(0..4)?.parse().ok()?, digits(5..7)?.parse().ok()?, digits(8..10)?.parse().ok()?);
    if year < 1970 || !(1..=12).contains(&month) || day == 0 {
        return None;
    }
    let number = civil_days(year, month) + day - 1;
    // A day past its month's end would be another date.
    (date_of(number) == text).then_some(number)
}

/// Days from 1970-01-01 to the first of a month.
fn civil_days(year: u64, month: u64) -> u64 {
    let leap_days = |year: u64| year / 4 - year / 100 + year / 400;
    let before_year = (year - 1970) * 365 + leap_days(year - 1) - leap_days(1969);
    let is_leap = leap_days(year) > leap_days(year - 1);
    let before_month = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334][(month - 1) as usize];
    before_year + before_month + u64::from(is_leap && month > 2)
}

/// The date of a day that is counted from 1970-01-01, as `2026-01-31`.
pub(super) fn date_of(day: u64) -> String {
    let mut year = 1970 + day / 366;
    while civil_days(year + 1, 1) <= day {
        year += 1;
    }
    let month = (1..=12).rev().find(|month| civil_days(year, *month) <= day).unwrap_or(1);
    format!("{year:04}-{month:02}-{:02}", day - civil_days(year, month) + 1)
}

/// A moment in seconds since the epoch, as `2026-01-31 13:05:00 UTC`.
pub(super) fn moment_of(seconds: u64) -> String {
    let (day, second) = (seconds / DAY_S, seconds % DAY_S);
    format!("{} {:02}:{:02}:{:02} UTC", date_of(day), second / 3_600, second / 60 % 60, second % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_and_dates_are_each_others_inverse() {
        for (date, day) in [("1970-01-01", 0), ("1972-02-29", 789), ("2000-03-01", 11_017), ("2026-11-26", 20_783), ("2100-03-01", 47_541)]
        {
            assert_eq!((day_of(date), date_of(day)), (Some(day), date.to_owned()));
        }
        assert!((0..60_000).all(|day| day_of(&date_of(day)) == Some(day)));
        for wrong in [
            "2026-02-29",
            "2026-13-01",
            "2026-00-01",
            "2026-01-00",
            "2026-04-31",
            "1969-12-31",
            "26-01-01",
            "2026-1-1",
            "2026/01/01",
            "２026-01-01",
            "+026-01-01",
        ] {
            assert_eq!(day_of(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_moment_is_written_to_the_second() {
        assert_eq!(moment_of(1_800_000_000), "2027-01-15 08:00:00 UTC");
        assert_eq!(moment_of(0), "1970-01-01 00:00:00 UTC");
        assert_eq!(moment_of(DAY_S - 1), "1970-01-01 23:59:59 UTC");
        // The latest that the chain can state.
        assert_eq!(moment_of((1 << 40) - 1), "36812-02-20 00:36:15 UTC");
    }
}
