//! What Cargo knows about this repository: where it is, where it builds, and which packages are for bare metal.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;

use crate::failure::{Doing, Result, failed};

/// The target that everything bare-metal is built for.
pub(crate) const TARGET: &str = "aarch64-unknown-none-softfloat";

/// The repository as Cargo sees it.
#[derive(Debug)]
pub(crate) struct Workspace {
    /// The folder of the workspace's Cargo.toml.
    pub(crate) root: PathBuf,
    /// Where build products go.
    pub(crate) target: PathBuf,
    /// Names of the packages that run on bare metal only: those that are no default members.
    pub(crate) bare_metal: Vec<String>,
}

#[derive(Deserialize)]
struct Metadata {
    workspace_root: PathBuf,
    target_directory: PathBuf,
    packages: Vec<Package>,
    workspace_default_members: Vec<String>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    id: String,
}

impl Workspace {
    /// Asks Cargo.
    pub(crate) fn find() -> Result<Self> {
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.toml");
        let output = Command::new(cargo())
            .args(["metadata", "--no-deps", "--format-version=1", "--manifest-path"])
            .arg(manifest)
            .output()
            .doing("running cargo metadata")?;
        if !output.status.success() {
            return failed(format!(
                "cargo metadata: {}",
                String::from_utf8_lossy(&output.stderr).trim()
            ));
        }
        let metadata: Metadata = serde_json::from_slice(&output.stdout).doing("reading cargo metadata")?;
        let bare_metal = metadata
            .packages
            .into_iter()
            .filter(|package| !metadata.workspace_default_members.contains(&package.id))
            .map(|package| package.name)
            .collect();
        Ok(Self {
            root: metadata.workspace_root,
            target: metadata.target_directory,
            bare_metal,
        })
    }

    /// The folder with the scenarios.
    pub(crate) fn scenarios(&self) -> PathBuf {
        self.root.join("qemu")
    }
}

/// The cargo that runs this command.
pub(crate) fn cargo() -> String {
    std::env::var("CARGO").unwrap_or_else(|_| "cargo".into())
}
