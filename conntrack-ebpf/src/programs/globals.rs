//! Read-only globals; names and meanings in `conntrack_ebpf::global`.
//!
//! One global for each value: the verifier folds a single frozen word into a constant, while an
//! indexed array costs four times the instructions.

use aya_ebpf::Global;
use conntrack_ebpf::global::MISSING;

macro_rules! globals {
    ($($name:ident = $default:expr;)*) => {
        $(#[unsafe(no_mangle)]
        pub(super) static $name: Global<u32> = Global::new($default);)*
    };
}

globals! {
    CT_STATUS = MISSING;
    CT_TIMEOUT = MISSING;
    CT_NET = MISSING;
    CT_ZONE = MISSING;
    CT_TUPLEHASH = MISSING;
    NET_INUM = MISSING;
    TASK_FLAGS = MISSING;
    SKB_NFCT = MISSING;
    SKB_SK = MISSING;
    SKB_IIF = MISSING;
    SK_STATE = MISSING;
    SK_LISTENER = MISSING;
    SK_CGROUP = MISSING;
    CGROUP_KN = MISSING;
    KERNFS_ID = MISSING;
    INSERT_ONE_IN = 0;
    DROP_BUDGET = 0;
    EVICTION_BUDGET = 0;
    RECORD_AT_CONFIRM = 0;
    COUNTS_AT_CONFIRM = 0;
    WAKE_AT_BYTES = 0;
    STALE_TICKS = 0;
    HOST_NETNS = 0;
    OWNER_COUNTS = 0;
    IS_REAL_TIME = 0;
    CT_IN_ONE_PIECE = 0;
    PREEMPT_OF_CPU = MISSING;
    PREEMPT_OF_TASK = MISSING;
    TAG_GROUPS_SHIFT = 31;
    HAS_TAG_PLACES = 0;
}
