//! A device that runs the kernels on the processor.
#![allow(unsafe_code)] // Calls into the compiled kernels.

use std::alloc::{Layout, alloc, dealloc};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ffi::{CString, c_char, c_int, c_uint, c_void};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;

use gpu_node::backend::BackendError;
use gpu_node::backend::cuda::code::{HEADERS, SOURCES};
use gpu_node::backend::cuda::device::{Device, DeviceFacts, Fault, Launch};

/// Bytes around every piece of memory that nobody may write.
const GUARD: usize = 256;
const POISON: u8 = 0xdb;

const RUNTIME: [(&str, &str); 3] = [
    ("device.cuh", include_str!("emulation/device.cuh")),
    ("unit.hpp", include_str!("emulation/unit.hpp")),
    ("emulation.cpp", include_str!("emulation/emulation.cpp")),
];

type Emulate = unsafe extern "C" fn(*const c_char, *const c_uint, c_uint, usize, *mut *mut c_void, c_uint) -> c_int;

/// The compiled kernels.
pub(crate) struct Library {
    emulate: Emulate,
    _library: libloading::Library,
    _folder: tempfile::TempDir,
}

impl Library {
    /// Compiles them; a compiler that is there and fails is a failure of the test.
    pub(crate) fn build() -> Option<Self> {
        let compiler = std::env::var("CXX").unwrap_or_else(|_| "g++".to_owned());
        if Command::new(&compiler).arg("--version").output().is_err() {
            eprintln!(
                "NOT RUN: `{compiler}` was not found; install g++, or name a C++17 compiler in CXX. The CUDA kernels were not tested"
            );
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        // The emulation's `device.cuh` takes the place of the kernels' own.
        for (name, text) in SOURCES.iter().chain(HEADERS).filter(|(name, _)| *name != "device.cuh").chain(&RUNTIME) {
            fs::write(path(name), text).unwrap();
        }
        let mut units = vec!["emulation".to_owned()];
        for (name, text) in SOURCES {
            let unit = format!("unit_{}", name.trim_end_matches(".cu"));
            let entries: String = entries(text).iter().map(|entry| format!("KERNEL_ENTRY({entry})\n")).collect();
            let registers = "for (const auto& entry : ENTRIES) emulation::entries().push_back(entry); return true;";
            let text = format!(
                "#include \"unit.hpp\"\n#include \"{name}\"\nstatic const emulation::Entry ENTRIES[] = {{\n{entries}}};\n\
                 static const bool KNOWN = [] {{ {registers} }}();\n"
            );
            fs::write(path(&format!("{unit}.cpp")), text).unwrap();
            units.push(unit);
        }
        let waiting = Mutex::new(units.clone());
        std::thread::scope(|scope| {
            for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
                scope.spawn(|| {
                    loop {
                        let Some(unit) = waiting.lock().unwrap().pop() else { break };
                        compile(&compiler, folder.path(), &["-c", &format!("{unit}.cpp"), "-o", &format!("{unit}.o")]);
                    }
                });
            }
        });
        let objects: Vec<String> = units.iter().map(|unit| format!("{unit}.o")).collect();
        let mut link = vec!["-shared", "-o", "kernels.so"];
        link.extend(objects.iter().map(String::as_str));
        compile(&compiler, folder.path(), &link);
        // SAFETY: our own library; its initialisers fill a table, and `emulate` has the type of `Emulate`.
        let (library, emulate) = unsafe {
            let library = libloading::Library::new(path("kernels.so")).unwrap();
            let emulate = *library.get::<Emulate>(b"emulate\0").unwrap();
            (library, emulate)
        };
        Some(Self { emulate, _library: library, _folder: folder })
    }
}

fn compile(compiler: &str, folder: &Path, arguments: &[&str]) {
    // No contraction: a product and a sum are rounded apart, as on the card.
    // A load or store that is not aligned to its type stops the program, as it does there.
    let flags = [
        "-std=c++17",
        "-O1",
        "-march=native",
        "-ffp-contract=off",
        "-fno-strict-aliasing",
        "-fPIC",
        "-w",
        "-fsanitize=alignment",
        "-fsanitize-undefined-trap-on-error",
    ];
    let output = Command::new(compiler).current_dir(folder).args(flags).args(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}:\n{}", String::from_utf8_lossy(&output.stderr));
}

/// Names of a source's entries: written out, or made by a macro in capitals from its first argument.
fn entries(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for line in text.lines() {
        let word = |text: &str| text.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect::<String>();
        if let Some(rest) = line.strip_prefix("extern \"C\" __global__ void __launch_bounds__(") {
            found.push(word(rest.split_once(") ").unwrap().1));
        } else if let Some((head, rest)) = line.split_once('(')
            && !head.is_empty()
            && head.chars().all(|c| c.is_ascii_uppercase())
        {
            found.push(word(rest));
        }
    }
    found
}

/// A piece of host memory with guards, poisoned.
pub(crate) struct Piece {
    start: *mut u8,
    bytes: usize,
}

// SAFETY: a plain allocation; who owns the piece owns its bytes.
unsafe impl Send for Piece {}

impl Piece {
    fn layout(&self) -> Layout {
        Layout::from_size_align(self.bytes + 2 * GUARD, GUARD).unwrap()
    }

    fn check(&self) {
        // SAFETY: the guards are inside the allocation.
        let guards = unsafe {
            [std::slice::from_raw_parts(self.start, GUARD), std::slice::from_raw_parts(self.start.add(GUARD + self.bytes), GUARD)]
        };
        assert!(
            guards.iter().all(|guard| guard.iter().all(|byte| *byte == POISON)),
            "a kernel wrote outside a piece of {} bytes",
            self.bytes
        );
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.check();
        }
        // SAFETY: allocated with this layout.
        unsafe { dealloc(self.start, self.layout()) }
    }
}

/// The device. Launches are done at once, or recorded.
pub(crate) struct Emulated {
    library: &'static Library,
    facts: DeviceFacts,
    recording: RefCell<Option<Vec<Launch>>>,
    /// Starts of each kernel.
    pub(crate) started: RefCell<HashMap<String, usize>>,
    pub(crate) replayed: RefCell<usize>,
    /// Launches that still succeed.
    pub(crate) good: RefCell<usize>,
    /// Bytes that can still be allocated.
    pub(crate) free: RefCell<usize>,
    allocations: RefCell<u64>,
    /// Every read has its lowest bit turned: a card with other bits.
    pub(crate) flips: Cell<bool>,
}

impl Emulated {
    pub(crate) fn new(library: &'static Library) -> Self {
        let facts = DeviceFacts {
            name: "emulated".into(),
            multiprocessors: 4,
            architecture: 80,
            memory_bytes: 1 << 30,
            shared_bytes_max: 99 << 10,
        };
        let (recording, started, replayed, allocations) = Default::default();
        Self {
            library,
            facts,
            recording,
            started,
            replayed,
            good: RefCell::new(usize::MAX),
            free: RefCell::new(1 << 30),
            allocations,
            flips: Cell::new(false),
        }
    }

    fn run(&self, launch: &Launch) -> Result<(), Fault> {
        {
            let mut good = self.good.borrow_mut();
            if *good == 0 {
                return Err(Fault("CUDA_ERROR_ILLEGAL_ADDRESS (made by the test)".into()));
            }
            *good -= 1;
        }
        assert!(launch.shared_bytes <= self.facts.shared_bytes_max && launch.threads <= 1024, "{launch:?}");
        assert!(launch.grid[1] < 65_536 && launch.grid[2] < 65_536, "{launch:?}");
        *self.started.borrow_mut().entry(launch.kernel.clone()).or_default() += 1;
        let name = CString::new(launch.kernel.as_str()).unwrap();
        let grid = launch.grid.map(|blocks| blocks as c_uint);
        let mut arguments: Vec<*mut c_void> = launch.arguments.iter().map(|argument| argument.0.as_ptr().cast_mut().cast()).collect();
        // SAFETY: as for a card; the caller of `launch` promises the parameters.
        let code = unsafe {
            (self.library.emulate)(
                name.as_ptr(),
                grid.as_ptr(),
                launch.threads as c_uint,
                launch.shared_bytes,
                arguments.as_mut_ptr(),
                arguments.len() as c_uint,
            )
        };
        assert_eq!(code, 0, "no kernel {} with {} parameters", launch.kernel, arguments.len());
        Ok(())
    }
}

impl Device for Emulated {
    type Memory = Piece;
    type Graph = Vec<Launch>;

    fn facts(&self) -> &DeviceFacts {
        &self.facts
    }

    fn free_bytes(&self) -> Result<usize, Fault> {
        Ok(*self.free.borrow())
    }

    fn allocate(&self, bytes: usize) -> Result<Piece, BackendError> {
        *self.allocations.borrow_mut() += 1;
        let mut free = self.free.borrow_mut();
        *free = free.checked_sub(bytes).ok_or(BackendError::OutOfMemory { bytes })?;
        let mut piece = Piece { start: std::ptr::null_mut(), bytes };
        // SAFETY: not an empty layout; all bytes are written before anybody reads them.
        unsafe {
            piece.start = alloc(piece.layout());
            assert!(!piece.start.is_null());
            piece.start.write_bytes(POISON, bytes + 2 * GUARD);
        }
        Ok(piece)
    }

    fn allocations(&self) -> u64 {
        *self.allocations.borrow()
    }

    fn address(&self, memory: &Piece) -> u64 {
        memory.start as u64 + GUARD as u64
    }

    fn bytes(&self, memory: &Piece) -> usize {
        memory.bytes
    }

    fn write(&self, to: &Piece, offset: usize, bytes: &[u8]) -> Result<(), Fault> {
        assert!(offset + bytes.len() <= to.bytes && self.recording.borrow().is_none());
        // SAFETY: inside the piece.
        unsafe { to.start.add(GUARD + offset).copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) }
        Ok(())
    }

    fn read(&self, from: &Piece, offset: usize, bytes: &mut [u8]) -> Result<(), Fault> {
        assert!(offset + bytes.len() <= from.bytes && self.recording.borrow().is_none());
        from.check();
        // SAFETY: inside the piece.
        unsafe { from.start.add(GUARD + offset).copy_to_nonoverlapping(bytes.as_mut_ptr(), bytes.len()) }
        if let Some(first) = bytes.first_mut().filter(|_| self.flips.get()) {
            *first ^= 1;
        }
        Ok(())
    }

    unsafe fn launch(&self, launch: &Launch) -> Result<(), Fault> {
        if let Some(recording) = self.recording.borrow_mut().as_mut() {
            recording.push(launch.clone());
            return Ok(());
        }
        self.run(launch)
    }

    fn record(&self) -> Result<bool, Fault> {
        *self.recording.borrow_mut() = Some(Vec::new());
        Ok(true)
    }

    fn recorded(&self) -> Result<Vec<Launch>, Fault> {
        Ok(self.recording.borrow_mut().take().unwrap())
    }

    fn replay(&self, graph: &Vec<Launch>) -> Result<(), Fault> {
        *self.replayed.borrow_mut() += 1;
        graph.iter().try_for_each(|launch| self.run(launch))
    }
}
