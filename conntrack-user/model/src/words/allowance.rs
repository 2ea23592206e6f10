//! Allowances of an instance, as its network driver names them.

/// What an allowance is called in a sentence.
pub fn allowance_name(allowance: &str) -> String {
    match allowance {
        "conntrack" => "allowance of tracked connections".to_owned(),
        "bw_in" => "allowance of inbound bandwidth".to_owned(),
        "bw_out" => "allowance of outbound bandwidth".to_owned(),
        "pps" => "allowance of packets a second".to_owned(),
        "linklocal" => {
            "allowance of packets to link-local services (DNS, metadata, time)".to_owned()
        }
        other => format!("allowance `{other}`"),
    }
}

/// Whether packets beyond an allowance are lost for certain: those of connections that the instance can't track. Others may only be held back.
pub fn allowance_drops(allowance: &str) -> bool {
    matches!(allowance, "conntrack" | "linklocal")
}

/// What an instance does with packets beyond an allowance, after "the instance".
pub fn allowance_fate(allowance: &str) -> &'static str {
    if allowance_drops(allowance) {
        "drops"
    } else {
        "drops or holds back"
    }
}
