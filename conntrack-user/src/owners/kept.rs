//! Network namespaces that are kept by a name and are no owner's: Docker Swarm's `ingress_sbox`, in which no process is, a router made by
//! `ip netns`. Such a one is an owner by the name of its file.
//!
//! What is in its table is its own. What goes by its addresses through the host's table is not: `ip netns` gives namespaces any address,
//! and those of an overlay mean something on the overlay only.

use std::collections::HashSet;

use super::Owner;
use super::discovery::{Discovery, FoundOwner};
use crate::kernel::{Problem, Root, tables::kept};

/// How many there may be: each takes a slot, and a runtime may leave behind any number.
const MOST: usize = 128;

/// Adds those that none of the owners that were found has.
pub(super) fn add(root: &Root, found: &mut Discovery) {
    let owned = found.owners.iter().filter_map(|one| one.netns);
    let mut known: HashSet<u32> = owned.chain(found.host_netns).collect();
    let mut left_out = Problem::new(format!(
        "there are more than {MOST} network namespaces that are kept by a name and are no owner's: what is in the tables of the rest is \
         counted as unknown"
    ));
    let mut number = 0;
    // What can't be looked at, who reads the tables says.
    for namespace in kept(root, &mut Vec::new()) {
        if names_a_sandbox(&namespace.name) || !known.insert(namespace.inode) {
            continue;
        }
        number += 1;
        if number > MOST {
            left_out.add(&namespace.name);
            continue;
        }
        let id = format!("netns:{}", namespace.file.display());
        found.owners.push(FoundOwner {
            owner: Owner::cgroup(&namespace.name, &id),
            cgroups: Vec::new(),
            netns: Some(namespace.inode),
            addresses: Vec::new(),
        });
    }
    found.problems.extend(left_out.if_any());
}

/// Whether a runtime calls the sandbox of a pod or container so, which tells nobody whose it is: containerd and other users of CNI
/// `cni-UUID`, CRI-O and Nomad `UUID`, Podman `netns-UUID`, Docker twelve digits of an ID. Without a process it was left behind, or has
/// its first one soon.
fn names_a_sandbox(name: &str) -> bool {
    let id = ["cni-", "netns-"]
        .into_iter()
        .find_map(|prefix| name.strip_prefix(prefix))
        .unwrap_or(name);
    let is_hex = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    match id.len() {
        12 | 64 => is_hex(id),
        36 => id.split('-').map(str::len).eq([8, 4, 4, 4, 12]) && id.split('-').all(is_hex),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Names as others have pasted them, and who made them.
    #[test]
    fn names_of_sandboxes_and_names_that_tell() {
        for sandbox in [
            // CNI: https://github.com/cri-o/cri-o/issues/273
            "cni-0d9d20e6-5728-763a-5c2b-db6acad98c1c",
            // CRI-O: https://github.com/cri-o/cri-o/issues/3581
            "8dcc097c-d910-41c8-9e92-38e43824d9c9",
            // Podman: https://github.com/containers/podman/issues/23715
            "netns-839e5791-ef98-7fe1-ff60-d9e9a39fc06d",
            // Docker: https://github.com/moby/moby/issues/42466
            "8f3a1c5d7e9b",
        ] {
            assert!(names_a_sandbox(sandbox), "{sandbox}");
        }
        for tells in [
            // Docker Swarm, the routing mesh, a network, and its load balancer: https://github.com/moby/moby/issues/35082
            "ingress_sbox",
            "1-abcdefghij",
            "lb_b1c4bbhf2",
            // OpenStack Neutron: https://github.com/prometheus/node_exporter/issues/2264
            "qrouter-9d52c01b-4fbd-4d19-8ac5-f6d0ecd2a1df",
            // https://github.com/google/testrun/issues/15
            "tr-ctns-gateway",
            "cni-",
            "cni-5c1d7e2a-1111-4222-8333-00000000000g",
            "5c1d7e2a11114222-8333-0000-0000-00000000",
            "",
        ] {
            assert!(!names_a_sandbox(tells), "{tells}");
        }
    }
}
