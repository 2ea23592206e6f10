//! Pods by a real container runtime: containerd with runc and CNI plugins, driven over its CRI
//! socket as a kubelet drives it.
//!
//! * [`grpc`], [`cri`]: one call to the runtime, and the few of its messages that are needed;
//! * [`image`]: images made of one static program, without a registry;
//! * [`runtime`]: containerd as a process, and what it is configured with;
//! * [`network`]: the CNI configurations, the node's uplink and what lies beyond it, Services;
//! * [`pod`]: one pod, its addresses, and the generator inside that takes commands;
//! * [`lookalike`]: pods without a runtime, where hundreds are needed;
//! * [`cluster`]: the pods that the scenarios share: made once in a guest, used by all.

pub mod cluster;
pub mod cri;
pub mod grpc;
pub mod image;
pub mod lookalike;
pub mod network;
pub mod pod;
pub mod runtime;
