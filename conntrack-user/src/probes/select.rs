//! Which candidate of the hook plan a kernel offers. Pure: what the kernel has is handed in.

use super::{
    Mechanism,
    plan::{Candidate, Function, Hook, Point},
};

/// A function as BTF has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BtfFunction {
    /// Type id of the FUNC.
    pub id: u32,
    /// In the BTF of the conntrack module, not of vmlinux.
    pub in_module: bool,
    /// Number of parameters.
    pub parameters: u32,
}

/// A function as /proc/kallsyms has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelSymbol {
    /// With its suffix, if it has one.
    pub name: String,
    /// The module it is in; `None`: built in.
    pub module: Option<String>,
}

/// What a kernel has; asked by name.
pub trait Kernel {
    /// The function with exactly this name in BTF, vmlinux first.
    fn btf_function(&self, name: &str) -> Option<BtfFunction>;
    /// The symbol with exactly this name.
    fn symbol(&self, name: &str) -> Option<KernelSymbol>;
    /// The symbol with this name and a compiler's suffix.
    fn suffixed_symbol(&self, name: &str) -> Option<KernelSymbol>;
}

/// A hook with the names and ids of one kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// The program's name.
    pub program: &'static str,
    /// The function.
    pub symbol: KernelSymbol,
    /// Where in it.
    pub point: Point,
    /// For fentry and fexit.
    pub btf: Option<BtfFunction>,
}

impl Resolved {
    /// The function as `perf_event_open(2)` wants it: with its module, because some kernels refuse
    /// a plain name that a module has (kernel.md 7.2: EADDRNOTAVAIL).
    pub fn kprobe_target(&self) -> String {
        match &self.symbol.module {
            Some(module) => format!("{module}:{}", self.symbol.name),
            None => self.symbol.name.clone(),
        }
    }
}

/// All hooks of a candidate on this kernel, or why it can't be had.
pub fn resolve(candidate: &Candidate, kernel: &impl Kernel) -> Result<Vec<Resolved>, String> {
    candidate
        .hooks
        .iter()
        .map(|hook| resolve_hook(hook, candidate.mechanism, kernel))
        .collect()
}

/// One hook on this kernel, or why it can't be had.
pub fn resolve_hook(
    hook: &Hook,
    mechanism: Mechanism,
    kernel: &impl Kernel,
) -> Result<Resolved, String> {
    let name = hook.function.base();
    let exact = kernel.symbol(name);
    let symbol = match hook.function {
        Function::Exact(_) => exact,
        Function::MaybeSuffixed(_) => exact.or_else(|| kernel.suffixed_symbol(name)),
    };
    let symbol = symbol.ok_or_else(|| format!("this kernel has no function {name}"))?;
    let btf = match mechanism {
        Mechanism::Kprobe => None,
        Mechanism::Fentry => {
            let function = kernel
                .btf_function(name)
                .ok_or_else(|| format!("this kernel's BTF has no function {name}"))?;
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
        point: hook.point,
        btf,
    })
}

#[cfg(test)]
mod tests;
