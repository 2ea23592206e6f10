//! Times as people read them: RFC 3339, or the clock alone where the day is plain. All of them UTC.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize, Serializer};

use super::duration::DAY;

pub use super::moment::{Moment, NotATime, parse};

/// The last second that RFC 3339 can name: the year 9999.
pub(super) const LAST: u64 = 253_402_300_799;

/// A second since 1970: `2026-03-01T03:12:07Z`.
pub fn rfc3339(seconds: u64) -> String {
    of_clock(UNIX_EPOCH + Duration::from_secs(seconds.min(LAST)))
}

/// Writes seconds since 1970 as [`rfc3339`], for `#[serde(serialize_with = "...")]`.
pub fn serialize_seconds<S: Serializer>(seconds: &u64, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&rfc3339(*seconds))
}

/// The same of a time that may not be known.
pub fn serialize_known_seconds<S: Serializer>(
    seconds: &Option<u64>,
    to: S,
) -> Result<S::Ok, S::Error> {
    seconds.map(rfc3339).serialize(to)
}

/// A time that is [`json`] wherever it is written; 1970 by default.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(any(test, feature = "testing"), derive(schemars::JsonSchema))]
#[serde(transparent)]
pub struct JsonTime(
    #[serde(with = "json")]
    #[cfg_attr(any(test, feature = "testing"), schemars(with = "String"))]
    pub SystemTime,
);

impl Default for JsonTime {
    fn default() -> Self {
        Self(UNIX_EPOCH)
    }
}

/// What a clock told, to the second: `2026-03-01T03:12:07Z`.
pub fn of_clock(time: SystemTime) -> String {
    humantime::format_rfc3339_seconds(printable(time)).to_string()
}

/// The day of a second of Unix time: `2026-03-01`.
pub fn date(seconds: u64) -> String {
    rfc3339(seconds)[..10].to_owned()
}

/// The time of day, UTC: `03:12:07`.
pub fn clock(seconds: u64) -> String {
    rfc3339(seconds)[11..19].to_owned()
}

/// The time of day of an event, UTC: `03:12:07.250`.
pub(crate) fn clock_millis(time: SystemTime) -> String {
    humantime::format_rfc3339_millis(printable(time)).to_string()[11..23].to_owned()
}

/// From `from` to `until`: `03:12:04 to 03:19:40`, with the dates where they are not `day`.
pub fn between(from: u64, until: u64, day: u64) -> String {
    format!("{} to {}", near(from, day), near(until, day))
}

/// The clock, with the date before it unless it is the one of `day`.
pub fn near(seconds: u64, day: u64) -> String {
    if seconds / DAY == day / DAY {
        clock(seconds)
    } else {
        format!("{} {}", date(seconds), clock(seconds))
    }
}

/// Seconds since 1970, rounded down; what was before is 0.
pub fn unix(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// A time that can be printed: from 1970 to 9999.
fn printable(time: SystemTime) -> SystemTime {
    time.clamp(UNIX_EPOCH, UNIX_EPOCH + Duration::from_secs(LAST))
}

/// The form of every time in JSON that a clock told, for `#[serde(with = "words::time::json")]`:
/// `2026-03-01T03:12:07.250000000Z`, always with nine digits, so that times sort as text. What comes from a journal, which
/// knows seconds only, is [`rfc3339`].
pub mod json {
    use std::time::SystemTime;

    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    /// The text of JSON.
    pub fn text(time: SystemTime) -> String {
        humantime::format_rfc3339_nanos(super::printable(time)).to_string()
    }

    /// Writes it as [`text`] has it.
    pub(crate) fn serialize<S: Serializer>(time: &SystemTime, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&text(*time))
    }

    /// Reads it, with any number of digits.
    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<SystemTime, D::Error> {
        humantime::parse_rfc3339(&String::deserialize(from)?).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// 2026-03-01T03:12:07Z
    const THEN: u64 = 1_772_334_727;

    #[test]
    fn times_as_people_read_them() {
        assert_eq!(rfc3339(THEN), "2026-03-01T03:12:07Z");
        assert_eq!(rfc3339(u64::MAX), "9999-12-31T23:59:59Z");
        assert_eq!(clock(THEN), "03:12:07");
        assert_eq!(between(THEN, THEN + 60, THEN), "03:12:07 to 03:13:07");
        assert_eq!(
            between(THEN, THEN + DAY, THEN),
            "03:12:07 to 2026-03-02 03:12:07"
        );
        let time = UNIX_EPOCH + Duration::from_millis(THEN * 1000 + 250);
        assert_eq!(of_clock(time), "2026-03-01T03:12:07Z");
        assert_eq!(clock_millis(time), "03:12:07.250");
        assert_eq!(json::text(time), "2026-03-01T03:12:07.250000000Z");
        let before = UNIX_EPOCH - Duration::from_secs(1);
        assert_eq!(
            (of_clock(before).as_str(), unix(before)),
            ("1970-01-01T00:00:00Z", 0)
        );
    }

    proptest! {
        #[test]
        fn json_reads_back_and_sorts(seconds in 0..LAST, nanos in 0_u32..1_000_000_000, later in 1_u64..1 << 50) {
            let time = UNIX_EPOCH + Duration::new(seconds, nanos);
            let text = serde_json::Value::from(json::text(time));
            prop_assert_eq!(json::deserialize(&text).ok(), Some(time));
            let later = printable(time + Duration::from_nanos(later));
            prop_assert!(json::text(time) <= json::text(later));
        }
    }
}
