//! The one command of developers and users: `cargo xtask`.
//!
//! Exit codes: 0 pass, 1 fail, 2 something to install or provide is missing, 3 skipped because inputs can't be had.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::failure::Result;
use crate::scenario::Scenario;
use crate::workspace::Workspace;

mod bench;
mod boards;
mod build;
mod chain;
mod check;
mod comparison;
mod cpio;
mod disk;
mod distribution;
mod evidence;
mod failure;
mod flash;
mod gzip;
mod image;
mod initramfs;
#[cfg(test)]
mod layer;
mod manifest;
mod monitor;
mod neighbours;
mod profile;
mod qemu;
mod run;
mod scenario;
mod session;
mod setup;
mod srec;
mod stage;
mod suites;
mod symbols;
mod terminal;
mod test;
mod timeline;
mod trace;
mod transcript;
mod workspace;

/// Builds, runs, tests and measures Portunus.
///
/// Exit codes: 0 pass, 1 fail, 2 set-up missing, 3 skipped.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Builds the hypervisor and a scenario's guests, and boots them in QEMU.
    Run(run::Run),
    /// Checks everything that CI checks. The last line is `N passed, N failed, N skipped`.
    Test(test::Test),
    /// Measures operations in instructions, beside the goals and what others need.
    Bench(bench::Bench),
    /// Reads manifests.
    Manifest(check::ManifestCommand),
    /// Makes everything that a board starts from: card, single files, checksums.
    Image(boards::Image),
    /// Writes a board's card to a device, or to a file, and reads it back.
    Flash(flash::Flash),
    /// Lists the scenarios with a line each.
    Scenarios,
}

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Run(run) => run.run(),
        Command::Test(test) => test.run(),
        Command::Bench(bench) => bench.run(),
        Command::Manifest(manifest) => manifest.run(),
        Command::Image(image) => image.run(),
        Command::Flash(flash) => flash.run(),
        Command::Scenarios => list_scenarios(),
    };
    done.unwrap_or_else(|failure| {
        eprintln!("error: {failure}");
        failure.exit_code()
    })
}

fn list_scenarios() -> Result<ExitCode> {
    let folder = Workspace::find()?.scenarios();
    for name in scenario::names(&folder)? {
        println!("{name:<16} {}", Scenario::read(&folder, &name)?.summary);
    }
    Ok(ExitCode::SUCCESS)
}
