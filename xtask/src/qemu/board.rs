//! The boards that QEMU can be, and where things go in their memory.

use serde::Deserialize;

use crate::chain::Places;

/// Where the hypervisor is loaded, from the start of RAM. QEMU puts an Image of text_offset 0 there by itself.
pub(crate) const IMAGE_OFFSET: u64 = 0x20_0000;

/// A board. Its name is that of its folder in `boards/`.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Board {
    /// QEMU's own machine, which takes any CPU and interrupt controller.
    #[default]
    QemuVirt,
    /// Four Cortex-A53 and a GIC-400, as on the real board.
    XlnxZcu102,
}

impl Board {
    /// The package that is the hypervisor for it.
    pub(crate) const fn package(self) -> &'static str {
        match self {
            Self::QemuVirt => "portunus-qemu-virt",
            Self::XlnxZcu102 => "portunus-xlnx-zcu102",
        }
    }

    /// Its device tree, by the path among those of the distribution's kernel; `None`: QEMU makes it.
    pub(crate) const fn tree(self) -> Option<&'static str> {
        match self {
            Self::QemuVirt => None,
            Self::XlnxZcu102 => Some("xilinx/zynqmp-zcu102-rev1.0.dtb"),
        }
    }

    /// Where its first RAM begins.
    pub(crate) const fn memory(self) -> u64 {
        match self {
            Self::QemuVirt => 0x4000_0000,
            Self::XlnxZcu102 => 0,
        }
    }

    /// Where that ends, if the machine has `mib` in all.
    pub(crate) fn memory_end(self, mib: u32) -> u64 {
        let size = u64::from(mib) << 20;
        match self {
            Self::QemuVirt => self.memory() + size,
            // What is beyond 2 GiB lies at 0x8_0000_0000.
            Self::XlnxZcu102 => size.min(2 << 30),
        }
    }

    /// Where the hypervisor is loaded.
    pub(crate) const fn image(self) -> u64 {
        self.memory() + IMAGE_OFFSET
    }

    /// Where the device tree is loaded; on its own machine QEMU does it.
    pub(crate) const fn device_tree(self) -> u64 {
        self.memory() + 0x800_0000
    }

    /// Where U-Boot puts what is no module. The file with everything goes above all modules, which it holds, too.
    pub(crate) const fn places(self) -> Places {
        Places {
            image: self.image(),
            device_tree: self.device_tree(),
            fit: self.memory() + 0x2800_0000,
        }
    }

    /// Where modules are loaded at first: above the hypervisor and the device tree.
    pub(crate) const fn first_module(self) -> u64 {
        self.memory() + 0x1000_0000
    }
}

/// What the boot CPU executes at the start of memory where QEMU has no boot loader of its own that would do: x0 =
/// device tree, x1 to x3 = 0, and to the Image (Documentation/arch/arm64/booting.rst).
pub(super) fn loader(image: u64, device_tree: u64) -> Vec<u8> {
    const CODE: [u32; 8] = [
        0x5800_0100, // ldr x0, device tree
        0x5800_0124, // ldr x4, Image
        0xaa1f_03e1, // mov x1, xzr
        0xaa1f_03e2, // mov x2, xzr
        0xaa1f_03e3, // mov x3, xzr
        0xd61f_0080, // br x4
        0xd503_201f, // nop
        0xd503_201f, // nop
    ];
    let code = CODE.iter().flat_map(|word| word.to_le_bytes());
    let addresses = [device_tree, image];
    code.chain(addresses.into_iter().flat_map(u64::to_le_bytes)).collect()
}
