//! Which candidate of the hook plan a kernel offers. Pure: what the kernel has is handed in.

use super::{
    Mechanism,
    plan::{Candidate, Hook},
};
use crate::kernel::kallsyms::Symbol;

/// A function as BTF has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BtfFunction {
    /// Type id of the FUNC.
    pub id: u32,
    /// In the BTF of the conntrack module, not of vmlinux.
    pub in_module: bool,
    pub parameters: u32,
}

/// What a kernel has; asked by name.
pub(crate) trait KernelSymbols {
    /// The function with exactly this name in the BTF of what conntrack is in: its module, or vmlinux.
    fn btf_function(&self, name: &str) -> Option<BtfFunction>;
    /// Why not all of the BTF could be read; what is not found may be there.
    fn btf_gap(&self) -> Option<&str> {
        None
    }
    /// Conntrack's function with exactly this name.
    fn symbol(&self, name: &str) -> Option<Symbol>;
    /// Conntrack's function with this name and a compiler's suffix.
    fn suffixed_symbol(&self, name: &str) -> Option<Symbol>;
}

/// A hook with the names and ids of one kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Resolved {
    pub program: &'static str,
    pub symbol: Symbol,
    pub at_return: bool,
    /// For fentry and fexit.
    pub btf: Option<BtfFunction>,
}

impl Resolved {
    /// The function as `perf_event_open(2)` wants it: with its module, because some kernels refuse
    /// a plain name that a module has (with EADDRNOTAVAIL).
    pub(crate) fn kprobe_target(&self) -> String {
        match &self.symbol.module {
            Some(module) => format!("{module}:{}", self.symbol.name),
            None => self.symbol.name.clone(),
        }
    }
}

/// All hooks of a candidate on this kernel, or why it can't be had.
pub(crate) fn resolve(
    candidate: &Candidate,
    kernel: &impl KernelSymbols,
) -> Result<Vec<Resolved>, String> {
    candidate
        .hooks
        .iter()
        .map(|hook| resolve_hook(hook, candidate.mechanism, kernel))
        .collect()
}

/// One hook on this kernel, or why it can't be had.
pub(crate) fn resolve_hook(
    hook: &Hook,
    mechanism: Mechanism,
    kernel: &impl KernelSymbols,
) -> Result<Resolved, String> {
    let name = hook.function;
    let symbol = kernel.symbol(name);
    let symbol = symbol
        .or_else(|| {
            kernel
                .suffixed_symbol(name)
                .filter(|_| hook.may_have_suffix)
        })
        .ok_or_else(|| format!("this kernel has no function {name}"))?;
    let btf = match mechanism {
        Mechanism::Kprobe => None,
        Mechanism::Fentry => {
            let function = kernel.btf_function(name).ok_or_else(|| {
                let gap = kernel.btf_gap();
                let gap = gap.map(|gap| format!(", as far as it can be read: {gap}"));
                format!(
                    "this kernel's BTF has no function {name}{}",
                    gap.unwrap_or_default()
                )
            })?;
            if function.parameters != hook.parameters {
                return Err(format!(
                    "{name} has {} parameters, {} were expected",
                    function.parameters, hook.parameters
                ));
            }
            Some(function)
        }
    };
    Ok(Resolved {
        program: hook.program,
        symbol,
        at_return: hook.at_return,
        btf,
    })
}

#[cfg(test)]
mod tests;
