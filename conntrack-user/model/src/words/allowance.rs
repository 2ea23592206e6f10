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
