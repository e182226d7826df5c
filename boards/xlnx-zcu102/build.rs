//! Links the board's program with the hypervisor's section layout.

fn main() {
    let manifest = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_else(|_| ".".into());
    let script = format!("{manifest}/../../linker/image.ld");
    println!("cargo:rerun-if-changed={script}");
    println!("cargo:rustc-link-arg-bins=-T{script}");
    // The Image relocates itself by this list, a fortieth of the other kind's length.
    println!("cargo:rustc-link-arg-bins=--pack-dyn-relocs=relr");
    // docs/errata.md: 835769, 843419
    println!("cargo:rustc-link-arg-bins=--defsym=cortex_a53=1");
    println!("cargo:rustc-link-arg-bins=--fix-cortex-a53-843419");
}
