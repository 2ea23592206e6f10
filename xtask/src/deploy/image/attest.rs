//! What is said of an image, attached to it as registries and runtimes expect it: each statement (in-toto) is a manifest of its own that has the
//! image as its `subject` (OCI 1.1), and image and statements are in one index, so that they travel together.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::files;

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const STATEMENT: &str = "application/vnd.in-toto+json";
const EMPTY: &str = "application/vnd.oci.empty.v1+json";

/// What a statement says, and of which type that is.
pub(super) struct Predicate {
    pub(super) kind: &'static str,
    pub(super) content: Value,
}

/// Attaches statements to the one image of a layout: its index then has one index, of the image for `platform` and of them.
pub(super) fn attach(layout: &Path, platform: &Value, statements: &[Predicate]) -> Result<()> {
    let path = layout.join("index.json");
    let mut top: Value =
        serde_json::from_slice(&files::bytes(&path)?).context("read index.json")?;
    let named = top["manifests"][0].clone();
    let image = json!({
        "mediaType": MANIFEST, "digest": named["digest"], "size": named["size"], "platform": platform,
    });
    let mut manifests = vec![image.clone()];
    for statement in statements {
        manifests.push(attestation(layout, &image, statement)?);
    }
    let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": manifests });
    let mut index = put(layout, INDEX, &index)?;
    index["annotations"] = named["annotations"].clone();
    top["manifests"] = json!([index]);
    files::write(&path, top.to_string())
}

/// Puts a statement and its manifest into the layout; the manifest as an index lists it.
fn attestation(layout: &Path, image: &Value, predicate: &Predicate) -> Result<Value> {
    let digest = image["digest"].as_str().context("a digest")?;
    let hash = digest.strip_prefix("sha256:").context("a SHA-256")?;
    let statement = json!({
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{ "name": "ctpressure", "digest": { "sha256": hash } }],
        "predicateType": predicate.kind,
        "predicate": predicate.content,
    });
    let mut layer = put(layout, STATEMENT, &statement)?;
    layer["annotations"] = json!({ "in-toto.io/predicate-type": predicate.kind });
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "artifactType": STATEMENT,
        "config": put(layout, EMPTY, &json!({}))?,
        "layers": [layer],
        "subject": { "mediaType": MANIFEST, "digest": digest, "size": image["size"] },
        "annotations": { "in-toto.io/predicate-type": predicate.kind },
    });
    let mut manifest = put(layout, MANIFEST, &manifest)?;
    manifest["artifactType"] = STATEMENT.into();
    // No platform is asked for by this name: who pulls the image does not get it in the image's place.
    manifest["platform"] = json!({ "architecture": "unknown", "os": "unknown" });
    manifest["annotations"] = json!({
        "vnd.docker.reference.type": "attestation-manifest",
        "vnd.docker.reference.digest": digest,
    });
    Ok(manifest)
}

/// Puts a blob into the layout; what describes it.
fn put(layout: &Path, kind: &str, content: &Value) -> Result<Value> {
    let text = content.to_string();
    let hash = sha256(text.as_bytes());
    fs::write(layout.join("blobs/sha256").join(&hash), &text).context("write a blob")?;
    Ok(json!({ "mediaType": kind, "digest": format!("sha256:{hash}"), "size": text.len() }))
}

/// The digest, in hexadecimal digits.
pub(super) fn sha256(bytes: &[u8]) -> String {
    use std::fmt::Write as _;

    let mut text = String::new();
    for byte in Sha256::digest(bytes) {
        // Writing to a text does not fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_are_about_the_image_and_every_digest_is_right() {
        let folder = tempfile::tempdir().unwrap();
        let layout = folder.path();
        fs::create_dir_all(layout.join("blobs/sha256")).unwrap();
        let image = put(layout, MANIFEST, &json!({ "schemaVersion": 2 })).unwrap();
        let top = json!({ "schemaVersion": 2, "manifests": [image] });
        files::write(&layout.join("index.json"), top.to_string()).unwrap();
        let predicate = |kind, content| Predicate { kind, content };
        let said = [predicate("a", json!({ "b": 1 })), predicate("c", json!(2))];
        let platform = json!({ "os": "linux", "architecture": "arm64" });
        attach(layout, &platform, &said).unwrap();

        let read = |described: &Value| -> Value {
            let digest = described["digest"].as_str().unwrap();
            let hash = digest.strip_prefix("sha256:").unwrap();
            let bytes = fs::read(layout.join("blobs/sha256").join(hash)).unwrap();
            assert_eq!(sha256(&bytes), hash);
            assert_eq!(described["size"], bytes.len());
            serde_json::from_slice(&bytes).unwrap()
        };
        let text = fs::read(layout.join("index.json")).unwrap();
        let top: Value = serde_json::from_slice(&text).unwrap();
        let index = read(&top["manifests"][0]);
        let manifests = index["manifests"].as_array().unwrap();
        assert_eq!(manifests[0]["digest"], image["digest"]);
        assert_eq!(manifests[0]["platform"], platform);
        assert_eq!(manifests.len(), 3);
        for (described, predicate) in manifests[1..].iter().zip(&said) {
            assert_eq!(described["platform"]["os"], "unknown");
            let manifest = read(described);
            assert_eq!(manifest["subject"]["digest"], image["digest"]);
            assert_eq!(read(&manifest["config"]), json!({}));
            let statement = read(&manifest["layers"][0]);
            assert_eq!(statement["predicateType"], predicate.kind);
            assert_eq!(statement["predicate"], predicate.content);
            let about = statement["subject"][0]["digest"]["sha256"]
                .as_str()
                .unwrap();
            assert_eq!(image["digest"], format!("sha256:{about}"));
        }
    }
}
