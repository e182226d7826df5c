SUMMARY = "A micro-hypervisor for 64-bit Arm that lets guests use VirtIO devices of other domains"
DESCRIPTION = "The hypervisor, its manifest and the image's own kernel and root file system on a card, and in a FIT."
LICENSE = "MIT | Apache-2.0"
LIC_FILES_CHKSUM = "file://${PORTUNUS_SOURCE}/LICENSE-MIT;md5=12b23862ac1ffcc34afb08f3b95d11d3 \
                    file://${PORTUNUS_SOURCE}/LICENSE-APACHE;md5=3b83ef96387f14655fc854ddc3c6bd57"

inherit deploy

# The layer is part of the sources. Whoever takes the layer alone sets PORTUNUS_SOURCE to a clone.
PORTUNUS_SOURCE ?= "${@os.path.normpath(os.path.join(d.getVar('THISDIR'), '../../..'))}"
FILESEXTRAPATHS:prepend := "${THISDIR}/files:"
SRC_URI = "file://image.toml.in file://image.dts"
# Before 5.1 there is no UNPACKDIR.
S = "${@d.getVar('UNPACKDIR') or d.getVar('WORKDIR')}"
B = "${WORKDIR}/build"

COMPATIBLE_MACHINE = "h3ulcb|portunus-qemuarm64"
PACKAGE_ARCH = "${MACHINE_ARCH}"

# What makes FITs, scripts and device trees, and what describes QEMU's machine.
DEPENDS = "u-boot-tools-native dtc-native dosfstools-native"
DEPENDS:append:portunus-qemuarm64 = " qemu-system-native"

# The compiler is that of rust-toolchain.toml, by the host's rustup: that of the distribution is older, and has no target
# without an operating system. Crates are those of Cargo.lock, which has their sums.
PORTUNUS_CARGO_HOME ?= "${HOME}/.cargo"
do_compile[network] = "1"

# What the guest is made of: the machine's own kernel, and a root file system in memory.
PORTUNUS_KERNEL ?= "${DEPLOY_DIR_IMAGE}/Image"
PORTUNUS_RAMDISK_IMAGE ?= "core-image-minimal"
PORTUNUS_RAMDISK ?= "${DEPLOY_DIR_IMAGE}/${PORTUNUS_RAMDISK_IMAGE}-${MACHINE}.rootfs.cpio.gz"
do_compile[depends] += "virtual/kernel:do_deploy ${PORTUNUS_RAMDISK_IMAGE}:do_image_complete"

# A private RSA key of 2048 bits; without one the FIT has checksums only.
PORTUNUS_SIGNING_KEY ?= ""

do_configure() {
    sed -e "s#@KERNEL@#${PORTUNUS_KERNEL}#" -e "s#@RAMDISK@#${PORTUNUS_RAMDISK}#" \
        "${S}/image.toml.in" > "${B}/image.toml"
    cp "${S}/image.dts" "${B}/image.dts"
}

do_compile() {
    export PATH="${PORTUNUS_CARGO_HOME}/bin:${PATH}"
    export CARGO_TARGET_DIR="${B}/target"
    export PORTUNUS_CACHE="${B}/cache"
    export PORTUNUS_BOARD_DTB="${DEPLOY_DIR_IMAGE}"
    # xtask runs on the host, and the rest says itself what it is built for.
    host=$(rustc -vV | sed -n 's/^host: //p' | tr 'a-z-' 'A-Z_')
    export "CARGO_TARGET_${host}_LINKER=gcc"
    unset CC CXX CFLAGS CXXFLAGS CPPFLAGS LDFLAGS AR LD
    set -- "${PORTUNUS_BOARD}" --scenario "${B}/image.toml"
    if [ -n "${PORTUNUS_SIGNING_KEY}" ]; then
        set -- "$@" --sign "${PORTUNUS_SIGNING_KEY}"
    fi
    cd "${PORTUNUS_SOURCE}"
    cargo run --locked --package xtask -- image "$@"
}

do_install[noexec] = "1"
ALLOW_EMPTY:${PN} = "1"

do_deploy() {
    install -d "${DEPLOYDIR}/portunus"
    for file in Image portunus.itb boot.scr portunus.srec sdcard.img SHA256SUMS SIZES; do
        install -m 0644 "${B}/target/images/${PORTUNUS_BOARD}/$file" "${DEPLOYDIR}/portunus/$file"
    done
}
addtask deploy after do_compile before do_build
