//! Which functions have a symbol that a probe can be put on: `/proc/kallsyms`.
//!
//! A compiler may rename a static function when it drops an argument (`init_conntrack.isra.0`),
//! split it (`nf_ct_delete.part.0`, `early_drop.cold`) or inline it; with BTF alone this can't be
//! seen.

use std::fs::File;
use std::io::{self, BufRead, BufReader};

use super::Root;

/// A symbol of the kernel or of a module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Symbol {
    /// Its full name, with any suffix of the compiler.
    pub name: String,
    /// The module that it is in; `None` if it is built in.
    pub module: Option<String>,
    /// Whether it is code (type `t`, `T`, `w` or `W`), not data.
    pub code: bool,
}

/// The symbols of interest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Symbols {
    /// Sorted by name; of one name in the order of the file.
    symbols: Vec<Symbol>,
}

impl Symbols {
    /// Reads the symbols whose names begin with one of `prefixes`, in one pass; the others are not
    /// kept.
    ///
    /// # Errors
    /// When the file can't be read, or is empty (a kernel without `CONFIG_KALLSYMS`).
    pub(crate) fn read(root: &Root, prefixes: &[&str]) -> io::Result<Self> {
        let path = root.proc("kallsyms");
        let explain = |error: io::Error| {
            io::Error::new(
                error.kind(),
                format!(
                    "{}: {error}; without the kernel's symbols no function can be found to probe",
                    path.display()
                ),
            )
        };
        let file = File::open(&path).map_err(explain)?;
        let symbols =
            Self::read_from(BufReader::with_capacity(1 << 16, file), prefixes).map_err(explain)?;
        symbols.ok_or_else(|| {
            explain(io::Error::other(
                "no symbols in it (is the kernel built with CONFIG_KALLSYMS?)",
            ))
        })
    }

    /// As [`Symbols::read`], from any source of lines; `None` if there is no line at all.
    fn read_from(mut source: impl BufRead, prefixes: &[&str]) -> io::Result<Option<Self>> {
        let mut symbols = Vec::new();
        let mut line = Vec::new();
        let mut lines = 0_u64;
        while source.read_until(b'\n', &mut line)? > 0 {
            lines += 1;
            symbols.extend(parse_line(&line, prefixes));
            line.clear();
        }
        symbols.sort_by(|one: &Symbol, other| one.name.cmp(&other.name));
        Ok((lines > 0).then_some(Self { symbols }))
    }

    /// The function with exactly that name; of several the first in the file (built in before
    /// modules).
    pub(crate) fn exact(&self, name: &str) -> Option<&Symbol> {
        self.at(name).find(|symbol| symbol.code)
    }
    /// All with exactly that name, code or data.
    pub(crate) fn at(&self, name: &str) -> impl Iterator<Item = &Symbol> {
        let begin = self
            .symbols
            .partition_point(|symbol| symbol.name.as_str() < name);
        self.symbols[begin..]
            .iter()
            .take_while(move |symbol| symbol.name == name)
    }

    /// The functions that are `base` with other arguments: `base.isra.0`, `base.constprop.0`, and
    /// so on.
    ///
    /// Never a part of it (`.cold`, `.part.0`) and never padding (`__pfx_base`). A part can be
    /// asked for by its own name: `with_suffix("nf_ct_delete.part")`.
    pub(crate) fn with_suffix(&self, base: &str) -> impl Iterator<Item = &Symbol> {
        let begin = self
            .symbols
            .partition_point(|symbol| symbol.name.as_str() < base);
        self.symbols[begin..]
            .iter()
            .take_while(move |symbol| symbol.name.starts_with(base))
            .filter(move |symbol| {
                symbol.code
                    && symbol.name[base.len()..]
                        .strip_prefix('.')
                        .is_some_and(is_same_function)
            })
    }
}

/// Whether a suffix (without its first dot) leaves a function whole.
fn is_same_function(suffix: &str) -> bool {
    suffix.split('.').all(|word| {
        matches!(word, "isra" | "constprop" | "llvm" | "lto_priv")
            || (!word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit()))
    })
}

fn parse_line(line: &[u8], prefixes: &[&str]) -> Option<Symbol> {
    let mut words = line
        .split(u8::is_ascii_whitespace)
        .filter(|word| !word.is_empty())
        .skip(1);
    let kind = words.next()?;
    let name = words.next()?;
    if !prefixes
        .iter()
        .any(|prefix| name.starts_with(prefix.as_bytes()))
    {
        return None;
    }
    let module = words
        .next()
        .and_then(|word| word.strip_prefix(b"[")?.strip_suffix(b"]"))
        .map(|module| String::from_utf8_lossy(module).into_owned());
    Some(Symbol {
        name: str::from_utf8(name).ok()?.to_owned(),
        module,
        code: matches!(kind, b"t" | b"T" | b"w" | b"W"),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FILE: &[u8] = b"\
ffffffff81000000 T _stext
ffffffff81000100 t nf_conntrack_in
ffffffff81000200 D nf_conntrack_max
0000000000000000 t early_drop\t[nf_conntrack]
0000000000000000 t __pfx_early_drop\t[nf_conntrack]
0000000000000000 t early_drop.cold\t[nf_conntrack]
0000000000000000 t init_conntrack.isra.0\t[nf_conntrack]
0000000000000000 t init_conntrack.isra.0.cold\t[nf_conntrack]
0000000000000000 t init_conntrack_extra.isra.0\t[other]
0000000000000000 t nf_ct_delete.part.0\t[nf_conntrack]
0000000000000000 t nf_ct_delete.constprop.2.isra.10\t[nf_conntrack]
0000000000000000 t gc_worker\t[nf_conncount]
0000000000000000 t gc_worker\t[nf_conntrack]
";

    fn symbols() -> Symbols {
        let prefixes = ["nf_", "early_drop", "init_conntrack", "gc_worker"];
        Symbols::read_from(FILE, &prefixes).unwrap().unwrap()
    }

    fn names<'a>(found: impl Iterator<Item = &'a Symbol>) -> Vec<&'a str> {
        found.map(|symbol| symbol.name.as_str()).collect()
    }

    #[test]
    fn exact_names_are_exact() {
        let symbols = symbols();
        assert_eq!(
            symbols.exact("early_drop").unwrap().module.as_deref(),
            Some("nf_conntrack")
        );
        let plain = symbols.exact("nf_conntrack_in").unwrap();
        assert_eq!(plain.module, None);
        assert_eq!(symbols.exact("init_conntrack"), None);
        assert_eq!(symbols.exact("_stext"), None, "not asked for");
        assert_eq!(
            symbols.exact("nf_conntrack_max"),
            None,
            "data is no function"
        );
        assert!(symbols.at("nf_conntrack_max").next().is_some());
        assert_eq!(
            symbols.at("gc_worker").filter(|symbol| symbol.code).count(),
            2
        );
    }

    #[test]
    fn suffixes_of_whole_functions_only() {
        let symbols = symbols();
        assert_eq!(
            names(symbols.with_suffix("init_conntrack")),
            ["init_conntrack.isra.0"]
        );
        assert_eq!(names(symbols.with_suffix("early_drop")), [""; 0]);
        assert_eq!(
            names(symbols.with_suffix("nf_ct_delete")),
            ["nf_ct_delete.constprop.2.isra.10"]
        );
        assert_eq!(
            names(symbols.with_suffix("nf_ct_delete.part")),
            ["nf_ct_delete.part.0"]
        );
    }

    #[test]
    fn no_lines_are_no_symbols() {
        assert_eq!(Symbols::read_from(&b""[..], &["nf_"]).unwrap(), None);
        let error = Symbols::read(&Root::at("/nonexistent"), &[]).unwrap_err();
        assert!(
            error.to_string().contains("/nonexistent/proc/kallsyms"),
            "{error}"
        );
    }

    #[test]
    fn the_running_kernel_has_symbols() {
        let symbols = Symbols::read(&Root::system(), &["schedule"]).unwrap();
        assert!(symbols.exact("schedule").is_some());
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let symbols = Symbols::read_from(&bytes[..], &[""]).unwrap().unwrap_or_default();
            for symbol in &symbols.symbols {
                prop_assert!(symbols.at(&symbol.name).next().is_some());
            }
        }
    }
}
