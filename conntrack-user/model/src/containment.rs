//! Stopping an owner that fills a table: the command line, said of who is to blame and never of who suffers; and the record of what was done.

use serde::{Deserialize, Serialize};

/// `ctpressure contain` for this owner, as other commands call it: a look, which changes nothing. `None`: it can't be contained without a second
/// thought (the host, a unit, what is in `kube-system`), or is no owner.
pub fn line(owner: &str) -> Option<String> {
    let (namespace, pod) = owner.split_once('/')?;
    let is_plain = |text: &str| {
        let plain = |letter: char| letter.is_ascii_alphanumeric() || "-.".contains(letter);
        text.starts_with(|letter: char| letter.is_ascii_alphanumeric()) && text.chars().all(plain)
    };
    let is_own = is_plain(namespace) && is_plain(pod) && namespace != "kube-system";
    is_own.then(|| format!("ctpressure contain {owner} --delete-entries"))
}

/// What a person did to an owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ContainAction {
    /// What it opens is limited.
    Limit,
    /// Its entries were deleted.
    Delete,
    /// The limit was ended.
    Lift,
}

impl ContainAction {
    /// Each action once, in the order in which a command does them.
    pub const ALL: [Self; 3] = [Self::Limit, Self::Delete, Self::Lift];

    /// The value of the label `action`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Limit => "limit",
            Self::Delete => "delete",
            Self::Lift => "lift",
        }
    }
}

/// One of these actions, for the record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainNote {
    /// By which of its steps `ctpressure contain` changed something.
    pub action: ContainAction,
    /// A sentence without its full stop: to whom, by how much, by whom.
    pub text: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_of_pods_that_may_be_contained() {
        let expected = Some("ctpressure contain shop/web-0 --delete-entries".to_owned());
        assert_eq!(line("shop/web-0"), expected);
        for other in [
            "host",
            "nginx.service",
            "unknown",
            "10.0.0.1",
            "kube-system/coredns-1",
            "shop/a b",
            "shop/$(reboot)",
            "/x",
        ] {
            assert_eq!(line(other), None, "{other}");
        }
    }
}
