//! Timestamps as Kubernetes writes them.

use std::time::{Duration, SystemTime};

/// Seconds since 1970 as `2024-02-29T12:34:56Z`.
pub(crate) fn rfc3339(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", rest / 3600, rest / 60 % 60, rest % 60)
}

/// What [`rfc3339`] writes, also with a part of a second.
pub(crate) fn parse_rfc3339(text: &str) -> Option<SystemTime> {
    let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
    let mut date = date.split('-').map(str::parse::<u64>);
    let (year, month, day) = (date.next()?.ok()?, date.next()?.ok()?, date.next()?.ok()?);
    let mut time = time.splitn(3, ':');
    let (hours, minutes): (u64, u64) = (time.next()?.parse().ok()?, time.next()?.parse().ok()?);
    let seconds: f64 = time.next()?.parse().ok()?;
    // Years that begin in March end with the day that some have more.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let leap_days = year / 4 - year / 100 + year / 400;
    let days = (year * 365 + leap_days + (month * 153 + 2) / 5 + day).checked_sub(719_469)?;
    let whole = days * 86_400 + hours * 3600 + minutes * 60;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(whole) + Duration::try_from_secs_f64(seconds).ok()?)
}

/// The Gregorian date `days` after 1970-01-01: whole years first, then whole months.
fn civil(mut days: u64) -> (u64, usize, u64) {
    let mut year = 1970;
    while days >= 365 + leap(year) {
        days -= 365 + leap(year);
        year += 1;
    }
    let lengths = [31, 28 + leap(year), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 0;
    while days >= lengths[month] {
        days -= lengths[month];
        month += 1;
    }
    (year, month + 1, days + 1)
}

fn leap(year: u64) -> u64 {
    u64::from(year.is_multiple_of(4) && !year.is_multiple_of(100) || year.is_multiple_of(400))
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::{parse_rfc3339, rfc3339};

    #[test]
    fn known_instants() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339(951_827_696), "2000-02-29T12:34:56Z");
        assert_eq!(rfc3339(1_735_689_599), "2024-12-31T23:59:59Z");
    }

    #[test]
    fn what_is_written_is_read() {
        for seconds in [0, 951_782_400, 951_827_696, 951_868_800, 1_735_689_599, 1_795_000_000] {
            let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
            assert_eq!(parse_rfc3339(&rfc3339(seconds)), Some(time), "{seconds}");
        }
        let part = SystemTime::UNIX_EPOCH + Duration::from_millis(1500);
        assert_eq!(parse_rfc3339("1970-01-01T00:00:01.5Z"), Some(part));
        assert_eq!(parse_rfc3339("1970-01-01 00:00:01"), None);
    }
}
