//! What runs take before they can be prepared: packages, programs, downloads.

use std::collections::BTreeSet;

use super::Choices;
use crate::failure::Result;
use crate::scenario::{Boot, Contents, Scenario};
use crate::setup::{self, Tool};
use crate::{boards, chain, distribution};

/// The packages that running `scenarios` takes, hypervisors included.
pub(crate) fn packages<'a>(scenarios: impl IntoIterator<Item = &'a Scenario>) -> BTreeSet<&'a str> {
    let mut packages = BTreeSet::new();
    for scenario in scenarios {
        packages.extend(module_packages(scenario));
        let machines = scenario.machines().into_iter().flatten();
        packages.extend(machines.map(|machine| machine.board.package()));
        let card = scenario.card.as_ref().and_then(|card| boards::board(&card.board).ok());
        packages.extend(card.map(|board| board.package));
    }
    packages
}

/// The packages among the modules of `scenario`.
pub(crate) fn module_packages(scenario: &Scenario) -> BTreeSet<&str> {
    let modules = scenario.modules.values();
    modules.filter_map(|module| module.build.as_deref()).collect()
}

/// The packages that a run of `scenario` on the bare machine takes.
pub(crate) fn plain_packages(scenario: &Scenario) -> BTreeSet<&str> {
    let kernel = scenario
        .plain
        .as_ref()
        .and_then(|plain| scenario.modules.get(&plain.kernel));
    kernel.and_then(|kernel| kernel.build.as_deref()).into_iter().collect()
}

/// Makes sure that the programs are there that `scenario` takes.
pub(crate) fn require_tools(scenario: &Scenario) -> Result<()> {
    let mut tools = vec![Tool::QEMU, Tool::DEVICE_TREE_COMPILER];
    tools.extend(scenario.disks.iter().flat_map(|disk| disk.tools()));
    if scenario.boot == Boot::UBoot {
        tools.extend(chain::TOOLS);
    }
    if scenario.signed {
        tools.push(chain::KEY_TOOL);
    }
    tools.extend(scenario.needs.iter().map(|need| Tool {
        program: &need.program,
        package: &need.package,
    }));
    setup::require(&tools)
}

/// Gets what `scenario` needs from elsewhere, so that it is there when several runs start at once.
pub(crate) fn require_downloads(scenario: &Scenario, choices: &Choices) -> Result<()> {
    for module in scenario.modules.values() {
        if let Some(flavour) = module.kernel.filter(|_| choices.kernel.is_none()) {
            distribution::kernel(flavour)?;
        }
    }
    for machine in scenario.machines()? {
        if let Some(tree) = machine.board.tree() {
            distribution::device_tree(tree)?;
        }
    }
    if scenario.boot == Boot::UBoot {
        distribution::u_boot()?;
    }
    if needs_busybox(scenario, choices) {
        distribution::busybox().map(drop)
    } else {
        Ok(())
    }
}

pub(super) fn needs_busybox(scenario: &Scenario, choices: &Choices) -> bool {
    let ramdisk = scenario.modules.values().any(|module| module.initramfs.is_some());
    let root = scenario
        .disks
        .iter()
        .any(|disk| matches!(&disk.contents, Contents::Ext4(files) if files.busybox));
    (ramdisk && choices.initrd.is_none()) || (root && choices.disk.is_none())
}
