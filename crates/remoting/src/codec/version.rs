//! Versions of clients, which go over the wire as places in a list that each release continues.
//!
//! From 4.0.0 on, at 213, the list has a snapshot and a release for each of ten patches of each minor version, and ten minor
//! versions of each major one. Source: remoting.md section 1.4.

const FIRST: i32 = 213;
/// What is newer than all that is known.
const END: i32 = 612;

/// `5.5.0`, or the number itself where that is not known to be one.
pub fn name(ordinal: i32) -> String {
    if !(FIRST..END).contains(&ordinal) {
        return ordinal.to_string();
    }
    let place = ordinal - FIRST;
    let (patches, suffix) = ((place + 1) / 2, if place % 2 == 0 { "" } else { "-SNAPSHOT" });
    format!("{}.{}.{}{suffix}", 4 + patches / 100, patches / 10 % 10, patches % 10)
}

/// The number of a name that [`name`] gives.
pub fn ordinal(name: &str) -> Option<i32> {
    let (release, snapshot) = name.strip_suffix("-SNAPSHOT").map_or((name, 0), |release| (release, 1));
    let parts: Option<Vec<i32>> = release.split('.').map(|part| part.parse().ok()).collect();
    match parts?[..] {
        [ordinal] if snapshot == 0 => Some(ordinal),
        [major @ 4..=99, minor @ 0..=9, patch @ 0..=9] => {
            let place = (major - 4) * 100 + minor * 10 + patch;
            let ordinal = FIRST + 2 * place - snapshot;
            Some(ordinal).filter(|ordinal| (FIRST..END).contains(ordinal))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_the_names_that_releases_have() {
        for (number, text) in [
            (213, "4.0.0"),
            (333, "4.6.0"),
            (399, "4.9.3"),
            (400, "4.9.4-SNAPSHOT"),
            (409, "4.9.8"),
            (413, "5.0.0"),
            (441, "5.1.4"),
            (513, "5.5.0"),
            (63, "63"),
            (612, "612"),
            (-1, "-1"),
        ] {
            assert_eq!(name(number), text);
        }
        for number in -5..700 {
            assert_eq!(ordinal(&name(number)), Some(number));
        }
        for other in ["", "5", "5.5", "x", "3.4.9", "5.10.0", "99999999.0.0", "5.0.7-beta", "-SNAPSHOT"] {
            assert!(ordinal(other).is_none() || other == "5", "{other}");
        }
    }
}
