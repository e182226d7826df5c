//! Links the guest with the runtime's linker script.

fn main() {
    let script = format!("{}/../runtime/guest.ld", env!("CARGO_MANIFEST_DIR"));
    println!("cargo:rerun-if-changed={script}");
    println!("cargo:rustc-link-arg-bins=-T{script}");
}
