//! What a kernel has: its BTF and its symbols.

use super::select::{BtfFunction, KernelSymbols};
use crate::kernel::{
    btf::Btf,
    kallsyms::{Symbol, Symbols},
};

/// First part of the names that can be in the plan.
pub(super) const SYMBOLS: &[&str] = &["nf_c", "__nf_c", "early_drop", "init_conntrack"];

/// The running kernel, as the plan asks for it.
pub(super) struct Running<'a> {
    pub(super) vmlinux: &'a Btf<'a>,
    /// BTF of the conntrack module, where it is one.
    pub(super) module: Option<&'a Btf<'a>>,
    pub(super) symbols: Symbols,
    /// Functions to treat as missing.
    pub(super) without: &'a [String],
    /// Why not all of the BTF could be read.
    pub(super) gap: Option<String>,
}

impl Running<'_> {
    fn hidden(&self, name: &str) -> bool {
        self.without.iter().any(|hidden| hidden == name)
    }
}

impl KernelSymbols for Running<'_> {
    fn btf_function(&self, name: &str) -> Option<BtfFunction> {
        let find = |btf: &Btf<'_>, in_module| {
            let id = btf.function_id(name)?;
            let parameters = btf.function_params(id)?;
            Some(BtfFunction {
                id,
                in_module,
                parameters,
            })
        };
        find(self.vmlinux, false).or_else(|| self.module.and_then(|btf| find(btf, true)))
    }

    fn btf_gap(&self) -> Option<&str> {
        self.gap.as_deref()
    }

    fn symbol(&self, name: &str) -> Option<Symbol> {
        let found = self.symbols.exact(name)?;
        (!self.hidden(name)).then(|| found.clone())
    }

    fn suffixed_symbol(&self, name: &str) -> Option<Symbol> {
        let found = self.symbols.with_suffix(name).next()?;
        (!self.hidden(name)).then(|| found.clone())
    }
}
