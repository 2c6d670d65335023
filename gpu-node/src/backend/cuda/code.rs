//! Machine code of the kernels: embedded by `build.rs` in a release, or compiled by the machine's own NVRTC.

/// Name, architecture and bytes of every embedded piece; empty in builds without `cargo xtask kernels`.
static EMBEDDED: &[(&str, u32, &[u8])] = &include!(concat!(env!("OUT_DIR"), "/cubins.rs"));

/// What the numeric contract needs of the compiler; `xtask/src/kernels` has the same.
pub const FLAGS: [&str; 5] = ["--std=c++17", "--fmad=false", "--prec-div=true", "--prec-sqrt=true", "--ftz=false"];

macro_rules! files {
    ($($name:literal),* $(,)?) => {
        &[$(($name, include_str!(concat!("../../../kernels/", $name)))),*]
    };
}

/// Every source by its name.
pub static SOURCES: &[(&str, &str)] = files![
    "attention.cu",
    "attention_merge.cu",
    "copy.cu",
    "digest.cu",
    "embed.cu",
    "matmul_prefill.cu",
    "matmul_skinny.cu",
    "norm.cu",
    "quantize.cu",
    "repack.cu",
    "rope.cu",
    "sample.cu",
];
/// What they include.
pub static HEADERS: &[(&str, &str)] = files!["cache.cuh", "device.cuh", "matmul.cuh", "numerics.cuh", "sample.cuh"];

/// Whether the machine code of the kernels is in this binary.
pub fn is_embedded() -> bool {
    !EMBEDDED.is_empty()
}

/// Embedded machine code that runs on `architecture`: that of the same generation (tens) with the greatest number not above it.
pub fn embedded(source: &str, architecture: u32) -> Option<&'static [u8]> {
    best(EMBEDDED, source, architecture)
}

fn best(table: &'static [(&str, u32, &[u8])], source: &str, architecture: u32) -> Option<&'static [u8]> {
    let fits = |of: u32| of / 10 == architecture / 10 && of <= architecture;
    table.iter().filter(|(name, of, _)| *name == source && fits(*of)).max_by_key(|(_, of, _)| *of).map(|(.., code)| *code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machine_code_runs_on_its_own_generation_from_its_number_on() {
        static TABLE: &[(&str, u32, &[u8])] = &[("a", 80, &[1]), ("a", 86, &[2]), ("a", 90, &[3]), ("a", 120, &[4]), ("b", 80, &[5])];
        let found = [80, 86, 87, 89, 90, 100, 121, 75].map(|architecture| best(TABLE, "a", architecture).map(|code| code[0]));
        assert_eq!(found, [Some(1), Some(2), Some(2), Some(2), Some(3), None, Some(4), None]);
    }

    #[test]
    fn every_file_of_the_kernels_is_here() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/kernels");
        let mut files: Vec<String> =
            std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        files.retain(|name| name.ends_with(".cu") || name.ends_with(".cuh"));
        files.sort();
        let mut known: Vec<&str> = SOURCES.iter().chain(HEADERS).map(|(name, _)| *name).collect();
        known.sort_unstable();
        assert_eq!(files, known);
    }
}
