//! Why a packet was lost: a reason that this program knows, or the name that another version gave it.

use std::fmt;

use conntrack_ebpf::record::DropReason;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Why a packet was lost. Typed as far as it is known; in JSON and in a journal it is its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// One of those that the probes tell apart.
    Known(DropReason),
    /// The name of one that this program does not know: it is of a newer version.
    Unknown(String),
}

impl Reason {
    /// The reason in a record of the ring.
    pub(crate) fn from_number(number: u8) -> Self {
        DropReason::from_number(number)
            .map_or_else(|| Self::Unknown(format!("reason_{number}")), Self::Known)
    }

    /// The reason of this name.
    pub fn from_name(name: &str) -> Self {
        let known = DropReason::ALL.into_iter();
        let mut known = known.filter(|reason| reason.name() == name);
        known
            .next()
            .map_or_else(|| Self::Unknown(name.to_owned()), Self::Known)
    }

    /// `table_full` and so on.
    pub fn name(&self) -> &str {
        match self {
            Self::Known(reason) => reason.name(),
            Self::Unknown(name) => name,
        }
    }
}

impl From<DropReason> for Reason {
    fn from(reason: DropReason) -> Self {
        Self::Known(reason)
    }
}

impl PartialEq<DropReason> for Reason {
    fn eq(&self, other: &DropReason) -> bool {
        matches!(self, Self::Known(reason) if reason == other)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.pad(self.name())
    }
}

#[cfg(any(test, feature = "testing"))]
impl schemars::JsonSchema for Reason {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Reason".into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        String::json_schema(generator)
    }
}

impl Serialize for Reason {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for Reason {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|name| Self::from_name(&name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_and_those_of_newer_versions_come_back_from_json() {
        let known = DropReason::ALL.map(Reason::Known);
        for reason in known.into_iter().chain([Reason::from_number(99)]) {
            let json = serde_json::to_string(&reason).expect("JSON");
            assert_eq!(json, format!("\"{reason}\""));
            assert_eq!(
                serde_json::from_str::<Reason>(&json).expect("a reason"),
                reason
            );
        }
        assert_eq!(Reason::from_number(1), DropReason::TableFull);
        assert_eq!(Reason::from_number(99).name(), "reason_99");
    }
}
