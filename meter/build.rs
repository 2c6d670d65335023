//! A new migration file is a change of this crate, which the compiler can't see by itself.

fn main() {
    println!("cargo:rerun-if-changed=migrations");
}
