//! Writes what a package has beside the program, made of its own arguments: man pages, one for each command, and completions for shells.
//! `cargo xtask package` runs it, with the features of the program in the package.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};
use clap::Command;
use clap_complete::Shell;
use clap_mangen::Man;
use conntrack_user::cli;

/// Of the manual: commands for who administers the system.
const SECTION: &str = "8";
fn main() -> Result<()> {
    let folder = std::env::args_os()
        .nth(1)
        .context("which folder is it to write to?")?;
    let folder = Path::new(&folder);
    let mut command = cli::definition();
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        clap_complete::generate_to(shell, &mut command, "ctpressure", folder)
            .with_context(|| format!("write what {shell} completes"))?;
    }
    command.build();
    pages(&command, folder)
}

/// The command lines at the end of its help, line by line: clap's own section would make one paragraph of them.
fn examples(command: &Command) -> String {
    let help = command.get_after_help().map(ToString::to_string);
    let lines = help.unwrap_or_default();
    let lines = lines.lines().skip(1);
    let lines: String = lines
        .map(|line| line.replace('\\', "\\\\").replace('-', "\\-") + "\n")
        .collect();
    format!(".SH EXAMPLES\n.nf\n{lines}.fi\n")
}

/// The page of a command, and those of the commands in it.
fn pages(command: &Command, folder: &Path) -> Result<()> {
    let name = command.get_display_name().unwrap_or(command.get_name());
    let page = Man::new(command.clone())
        .title(name.to_uppercase())
        .section(SECTION)
        .source(format!("ctpressure {}", env!("CARGO_PKG_VERSION")))
        .manual("ctpressure");
    let mut text = Vec::new();
    page.render_title(&mut text)?;
    page.render_name_section(&mut text)?;
    page.render_synopsis_section(&mut text)?;
    page.render_description_section(&mut text)?;
    page.render_options_section(&mut text)?;
    if command.has_subcommands() {
        page.render_subcommands_section(&mut text)?;
    }
    text.extend(examples(command).as_bytes());
    let path = folder.join(format!("{name}.{SECTION}"));
    fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
    command
        .get_subcommands()
        .try_for_each(|inner| pages(inner, folder))
}
