//! What kube-proxy was told: by flags, and by the file that goes before them.

use std::{io, path::Path};

use serde::{Deserialize, de::DeserializeOwned};

use crate::kernel::files::bounded_text;

/// No such file is longer.
const MOST_BYTES: u64 = 1 << 20;
/// The kind of its own document.
const KIND: &str = "KubeProxyConfiguration";

/// The settings that decide on the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ProxySettings {
    /// `conntrack.maxPerCore`; 0: it leaves the limit alone.
    pub max_per_core: u64,
    pub min: u64,
}

/// What is said somewhere.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) config: Option<String>,
    pub(super) max_per_core: Option<u64>,
    pub(super) min: Option<u64>,
    /// Where it tells its metrics.
    pub(super) metrics: Option<String>,
    /// It is told not to run.
    pub(super) is_off: bool,
    /// Why not all of it could be read.
    pub(super) unread: Option<String>,
}

impl Told {
    /// With kube-proxy's own defaults.
    pub(super) fn settings(&self) -> ProxySettings {
        ProxySettings {
            max_per_core: self.max_per_core.unwrap_or(32_768),
            min: self.min.unwrap_or(131_072),
        }
    }

    /// By its flags.
    pub(super) fn by_flags<'a>(words: impl IntoIterator<Item = &'a str>) -> Self {
        let mut told = Self::default();
        for (name, value) in flags(words) {
            let mut number = |into: fn(&mut Self) -> &mut Option<u64>| match value.parse() {
                Ok(number) => *into(&mut told) = Some(number),
                Err(_) => told.unread = Some(format!("--{name} {value} is no number")),
            };
            match name {
                "config" => told.config = Some(value.to_owned()),
                "conntrack-max-per-core" => number(|told| &mut told.max_per_core),
                "conntrack-min" => number(|told| &mut told.min),
                "metrics-bind-address" => told.metrics = Some(value.to_owned()),
                _ => {}
            }
        }
        told
    }

    /// What its file says goes before flags, of which kube-proxy warns that it ignores them.
    pub(super) fn or_by_file(self, root: &Path) -> Self {
        let Some(config) = &self.config else {
            return self;
        };
        let by_file = match text_inside(root, config) {
            Ok(Some(text)) => of_document(&text),
            Ok(None) => Err("it is not there".to_owned()),
            Err(error) => Err(error.to_string()),
        };
        match by_file {
            Ok(told) => Self {
                config: self.config,
                ..told
            },
            Err(because) => Self {
                unread: Some(format!("{config}: {because}")),
                ..self
            },
        }
    }
}

/// Names and values: `--flag=value`, `--flag value`, `--switch`.
pub(super) fn flags<'a>(
    words: impl IntoIterator<Item = &'a str>,
) -> impl Iterator<Item = (&'a str, &'a str)> {
    let mut words = words.into_iter().peekable();
    std::iter::from_fn(move || {
        loop {
            let Some(flag) = words.next()?.strip_prefix("--") else {
                continue;
            };
            return Some(match flag.split_once('=') {
                Some(pair) => pair,
                None => match words.next_if(|next| !next.starts_with("--")) {
                    Some(value) => (flag, value),
                    None => (flag, "true"),
                },
            });
        }
    })
}

/// The text of a file that a process sees by this path; `None`: there is none.
///
/// Whoever calls himself kube-proxy chooses what is there: only a file of a bounded length is read.
pub(super) fn text_inside(root: &Path, path: &str) -> io::Result<Option<String>> {
    match bounded_text(&root.join(path.trim_start_matches('/')), MOST_BYTES) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The documents of a YAML or JSON file.
pub(super) fn documents<T: DeserializeOwned>(text: &str) -> Result<Vec<T>, String> {
    // A piece of a file that is not a configuration is nobody's to see.
    let options = serde_saphyr::options! { with_snippet: false };
    serde_saphyr::from_multiple_with_options(text, options).map_err(|error| error.to_string())
}

/// As far as it matters here; what is null is not said.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    kind: Option<String>,
    conntrack: Option<Conntrack>,
    metrics_bind_address: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Conntrack {
    max_per_core: Option<u64>,
    min: Option<u64>,
}

/// What the document of kube-proxy among others says.
fn of_document(text: &str) -> Result<Told, String> {
    let documents: Vec<Document> = documents(text)?;
    let own = documents
        .into_iter()
        .find(|document| document.kind.as_deref() == Some(KIND))
        .ok_or_else(|| format!("no document of kind {KIND} is in it"))?;
    let conntrack = own.conntrack.as_ref();
    Ok(Told {
        max_per_core: conntrack.and_then(|told| told.max_per_core),
        min: conntrack.and_then(|told| told.min),
        metrics: own.metrics_bind_address,
        ..Told::default()
    })
}
