//! The command line that stops an owner which fills a table: said of who is to blame, never of who suffers.

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
