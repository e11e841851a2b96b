//! Durations as people write them: `500ms`, `10s`, `1m`, `72h`, `3d`.

/// Milliseconds of a number with a unit.
pub fn parse_millis(text: &str) -> Result<i64, String> {
    let text = text.trim();
    let split = text.find(|character: char| !character.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let factor = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(format!("{text:?} is not a number with ms, s, m, h or d, such as 10s")),
    };
    let number: i64 = number.parse().map_err(|_| format!("{text:?} does not start with a number"))?;
    number.checked_mul(factor).ok_or_else(|| format!("{text} is too long"))
}

/// The shortest of those texts that is exact.
pub fn show_millis(millis: i64) -> String {
    match millis {
        0 => "0s".to_owned(),
        _ if millis % 86_400_000 == 0 => format!("{}d", millis / 86_400_000),
        _ if millis % 3_600_000 == 0 => format!("{}h", millis / 3_600_000),
        _ if millis % 60_000 == 0 => format!("{}m", millis / 60_000),
        _ if millis % 1_000 == 0 => format!("{}s", millis / 1_000),
        _ => format!("{millis}ms"),
    }
}

/// A time as `2026-01-31T23:59:59Z` (UTC; seconds may be left out, a space may stand for the T), or how long before `now`,
/// such as `10m`; in milliseconds since the Unix epoch.
pub fn parse_time(text: &str, now: i64) -> Result<i64, String> {
    let bad = || format!("{text:?} is not a time such as 2026-01-31T23:59:59Z, or how long ago, such as 10m");
    let Some((date, time)) = text.trim().trim_end_matches('Z').split_once(['T', ' ']) else {
        return parse_millis(text).map(|millis| now.saturating_sub(millis)).map_err(|_| bad());
    };
    let numbers = |text: &str, by: char| -> Option<Vec<i64>> {
        let part = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit()).then(|| part.parse().ok())?;
        text.split(by).map(part).collect()
    };
    let (date, time) = numbers(date, '-').zip(numbers(time, ':')).ok_or_else(bad)?;
    let (&[year, month, day], &[hour, minute, ref second @ ..]) = (&date[..], &time[..]) else { return Err(bad()) };
    let second = match second {
        [] => 0,
        [second] => *second,
        _ => return Err(bad()),
    };
    let in_range = (1970..=9999).contains(&year)
        && (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && (0..24).contains(&hour)
        && (0..60).contains(&minute)
        && (0..60).contains(&second);
    if !in_range {
        return Err(bad());
    }
    // Years start in March, so that the leap day comes last; as in `show_time`.
    let shifted = year - i64::from(month <= 2);
    let month_from_march = (month + 9) % 12;
    let day_of_year = (153 * month_from_march + 2) / 5 + day - 1;
    let days = shifted * 365 + shifted / 4 - shifted / 100 + shifted / 400 + day_of_year - 719_468;
    let millis = ((days * 24 + hour) * 60 + minute) * 60_000 + second * 1_000;
    // What does not read back the same was no day of the calendar.
    let written = format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}Z");
    if show_time(millis) == written { Ok(millis) } else { Err(bad()) }
}

/// A time in UTC, as `2026-01-31 23:59:59Z`.
pub fn show_time(unix_millis: i64) -> String {
    let seconds = unix_millis.div_euclid(1_000);
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    // Civil date from days since 1970: years start in March, so that the leap day comes last.
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02}Z", second / 3_600, second / 60 % 60, second % 60)
}

/// Bytes as people say them: `1.2 GiB`.
pub fn show_bytes(bytes: u64) -> String {
    let units = ["bytes", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} bytes") } else { format!("{value:.1} {}", units[unit]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_round_trip() {
        for (text, millis) in
            [("500ms", 500), ("10s", 10_000), ("5m", 300_000), ("7h", 25_200_000), ("3d", 259_200_000)]
        {
            assert_eq!((parse_millis(text), show_millis(millis)), (Ok(millis), text.to_owned()));
        }
        for bad in ["", "10", "s", "1.5h", "-1s", "10 s", "99999999999999999999s", "9999999999999999d"] {
            assert!(parse_millis(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn times_are_read_as_they_are_shown_or_as_how_long_ago() {
        for millis in [0, 951_782_400_000, 1_767_225_599_000, 4_102_444_800_000] {
            assert_eq!(parse_time(&show_time(millis), 0), Ok(millis));
        }
        assert_eq!(parse_time("2000-02-29T00:00Z", 0), Ok(951_782_400_000));
        assert_eq!(parse_time("10m", 1_000_000), Ok(400_000));
        for bad in
            ["", "10", "2001-02-29T00:00Z", "2000-00-01T00:00Z", "2000-01-01T24:00Z", "2000-01-01", "T", "9-9T9:9:9:9"]
        {
            assert!(parse_time(bad, 0).is_err(), "{bad}");
        }
        assert!(parse_time("99999999999999999-01-01T00:00Z", 0).is_err());
    }

    #[test]
    fn times_are_shown_in_utc() {
        assert_eq!(show_time(0), "1970-01-01 00:00:00Z");
        assert_eq!(show_time(951_782_400_000), "2000-02-29 00:00:00Z");
        assert_eq!(show_time(1_767_225_599_999), "2025-12-31 23:59:59Z");
        assert_eq!(show_time(-1), "1969-12-31 23:59:59Z");
    }

    #[test]
    fn bytes_are_shown_in_binary_units() {
        assert_eq!([0, 1023, 1536, 1 << 40].map(show_bytes), ["0 bytes", "1023 bytes", "1.5 KiB", "1.0 TiB"]);
    }
}
