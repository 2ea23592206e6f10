//! What a kernel has: its BTF and its symbols.

use super::select::{BtfFunction, KernelSymbols};
use crate::kernel::{
    btf::Btf,
    kallsyms::{Symbol, Symbols},
};

/// First part of the names that can be in the plan.
pub(super) const SYMBOLS: &[&str] = &["nf_c", "__nf_c", "early_drop", "init_conntrack"];

/// A function that conntrack exports, so no other module can have one of that name.
const EXPORTED: &str = "nf_conntrack_in";

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

    /// Any function of conntrack's.
    fn anchor(&self) -> Option<&Symbol> {
        self.symbols.exact(EXPORTED)
    }

    /// The only one of the functions that is conntrack's: any module, and any file that is built in, may have a static function by
    /// the same name (`early_drop`). Of several in its own place none is sure to be it.
    fn of_conntrack<'s>(&self, found: impl Iterator<Item = &'s Symbol>) -> Option<&'s Symbol> {
        let anchor = self.anchor()?;
        let mut own = found.filter(|symbol| symbol.code && symbol.module == anchor.module);
        let first = own.next()?;
        own.all(|other| other.name != first.name).then_some(first)
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
        if self.anchor()?.module.is_some() {
            find(self.module?, true)
        } else {
            find(self.vmlinux, false)
        }
    }

    fn btf_gap(&self) -> Option<&str> {
        self.gap.as_deref()
    }

    fn symbol(&self, name: &str) -> Option<Symbol> {
        let found = self.of_conntrack(self.symbols.at(name))?;
        (!self.hidden(name)).then(|| found.clone())
    }

    fn suffixed_symbol(&self, name: &str) -> Option<Symbol> {
        let found = self.of_conntrack(self.symbols.with_suffix(name))?;
        (!self.hidden(name)).then(|| found.clone())
    }
}
