//! Names of the protocols that conntrack tracks.

use std::borrow::Cow;

/// Numbers by name (IANA); what is not here goes by its number.
const NAMES: [(&str, u8); 8] = [
    ("icmp", 1),
    ("tcp", 6),
    ("udp", 17),
    ("dccp", 33),
    ("gre", 47),
    ("icmpv6", 58),
    ("sctp", 132),
    ("udplite", 136),
];

/// Whether it has a name here.
pub fn is_named(number: u8) -> bool {
    NAMES.iter().any(|(_, known)| *known == number)
}

/// `tcp`, `udp`, ... or the number in digits.
pub fn protocol_name(number: u8) -> Cow<'static, str> {
    NAMES
        .iter()
        .find(|(_, known)| *known == number)
        .map_or_else(
            || Cow::Owned(number.to_string()),
            |(name, _)| Cow::Borrowed(*name),
        )
}

/// The number of a protocol given by name (any case) or by number.
pub fn protocol_number(text: &str) -> Option<u8> {
    NAMES
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(text))
        .map(|(_, number)| *number)
        .or_else(|| text.parse().ok())
}

/// Whether the "ports" of a tuple are an ICMP id, type and code.
pub const fn is_icmp(number: u8) -> bool {
    matches!(number, 1 | 58)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_comes_back() {
        for number in 0..=u8::MAX {
            assert_eq!(protocol_number(&protocol_name(number)), Some(number));
        }
        assert_eq!(protocol_number("SCTP"), Some(132));
        assert_eq!(protocol_number("256"), None);
        assert_eq!(protocol_number("sctpp"), None);
    }
}
