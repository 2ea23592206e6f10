//! Images without a registry: one static program, packed as an archive in the OCI layout that
//! `ctr images import` takes.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::guest::command::output;

/// An image whose only file is a static program.
#[derive(Clone, Copy, Debug)]
pub struct Image<'a> {
    /// Name with registry and tag.
    pub name: &'a str,
    /// What it starts without a command.
    pub entrypoint: &'a [&'a str],
}

/// Where the program is in an image.
pub const PROGRAM: &str = "/ctgen";

/// Packs `program` into images; they share its layer. Returns nothing: `target` is the archive.
pub fn write(program: &Path, images: &[Image<'_>], target: &Path) -> Result<()> {
    let folder = tempfile::Builder::new().prefix("ctp-image-").tempdir()?;
    let blobs = folder.path().join("blobs/sha256");
    fs::create_dir_all(&blobs)?;

    let content = folder.path().join("content");
    fs::create_dir(&content)?;
    let inside = PROGRAM.trim_start_matches('/');
    // `copy` keeps the permissions.
    fs::copy(program, content.join(inside))
        .with_context(|| format!("copying {}", program.display()))?;
    let layer_file = folder.path().join("layer.tar");
    tar(&content, &layer_file, &[inside])?;
    let layer = take(
        &blobs,
        &layer_file,
        "application/vnd.oci.image.layer.v1.tar",
    )?;

    let mut manifests = Vec::new();
    for image in images {
        let config = json!({
            "architecture": "amd64",
            "os": "linux",
            "config": { "Entrypoint": image.entrypoint },
            "rootfs": { "type": "layers", "diff_ids": [layer["digest"]] },
        });
        let config = put(
            folder.path(),
            &config,
            "application/vnd.oci.image.config.v1+json",
        )?;
        let kind = "application/vnd.oci.image.manifest.v1+json";
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": kind,
            "config": config,
            "layers": [layer],
        });
        let mut manifest = put(folder.path(), &manifest, kind)?;
        manifest["annotations"] = json!({ "io.containerd.image.name": image.name });
        manifests.push(manifest);
    }
    let index = json!({ "schemaVersion": 2, "manifests": manifests });
    fs::write(folder.path().join("index.json"), index.to_string())?;
    let layout = json!({ "imageLayoutVersion": "1.0.0" });
    fs::write(folder.path().join("oci-layout"), layout.to_string())?;
    tar(
        folder.path(),
        target,
        &["oci-layout", "index.json", "blobs"],
    )
}

/// Stores a document as a blob and describes it.
fn put(folder: &Path, document: &Value, kind: &str) -> Result<Value> {
    let file = folder.join("document");
    fs::write(&file, document.to_string())?;
    take(&folder.join("blobs/sha256"), &file, kind)
}

/// Makes a file a blob and describes it.
fn take(blobs: &Path, file: &Path, kind: &str) -> Result<Value> {
    let path = file.to_string_lossy();
    let sum = output("sha256sum", &[&path])?;
    let sum = sum.split_whitespace().next().unwrap_or_default();
    let size = fs::metadata(file)?.len();
    fs::rename(file, blobs.join(sum)).with_context(|| format!("moving {path}"))?;
    Ok(json!({ "mediaType": kind, "digest": format!("sha256:{sum}"), "size": size }))
}

fn tar(folder: &Path, target: &Path, names: &[&str]) -> Result<()> {
    let (folder, target) = (folder.to_string_lossy(), target.to_string_lossy());
    let mut arguments = vec!["-cf", &target, "-C", &folder];
    arguments.extend(names);
    output("tar", &arguments).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_blob_is_named_by_its_sum_and_found_from_the_index() {
        let folder = tempfile::tempdir().unwrap();
        let archive = folder.path().join("image.tar");
        let images = ["a.test/one:1", "a.test/two:1"].map(|name| Image {
            name,
            entrypoint: &[PROGRAM, "pause"],
        });
        write(Path::new("/bin/true"), &images, &archive).unwrap();
        let archive = archive.to_string_lossy();
        output(
            "tar",
            &["-xf", &archive, "-C", &folder.path().to_string_lossy()],
        )
        .unwrap();
        let read = |path: &str| -> Value {
            serde_json::from_slice(&fs::read(folder.path().join(path)).unwrap()).unwrap()
        };
        let blob = |described: &Value| {
            let digest = described["digest"].as_str().unwrap();
            format!("blobs/{}", digest.replace(':', "/"))
        };
        let index = read("index.json");
        let manifests = index["manifests"].as_array().unwrap();
        assert_eq!(manifests.len(), 2);
        for (manifest, image) in manifests.iter().zip(images) {
            let name = &manifest["annotations"]["io.containerd.image.name"];
            assert_eq!(name, image.name);
            let manifest = read(&blob(manifest));
            let config = read(&blob(&manifest["config"]));
            let layer = &manifest["layers"][0];
            assert_eq!(config["rootfs"]["diff_ids"][0], layer["digest"]);
            let size = fs::metadata(folder.path().join(blob(layer))).unwrap().len();
            assert_eq!(layer["size"], size);
        }
    }
}
