//! Pages as files.

use std::{fs, path::Path, process};

use ctpressure_model::command_line::Failure;

/// Writes all of a file, or nothing: it gets its name when it is complete.
///
/// # Errors
/// If it could not be written.
pub fn write_whole(path: &Path, contents: &str) -> Result<(), Failure> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.part", process::id()));
    let part = path.with_file_name(name);
    let written = fs::write(&part, contents).and_then(|()| fs::rename(&part, path));
    written.map_err(|error| {
        // It may not be there.
        drop(fs::remove_file(&part));
        Failure {
            what: format!("{} could not be written: {error}", path.display()),
            help: "give a file in a folder that exists and that you may write to, with room on its disk"
                .to_owned(),
        }
    })
}
