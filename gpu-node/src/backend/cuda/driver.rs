//! NVIDIA's driver as a [`Device`], found at run time: nothing of CUDA is needed to build or to start the node.
#![allow(unsafe_code)] // Calls into the driver; each says why it holds.

mod compile; // the machine's own NVRTC

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ffi::c_void;
use std::panic::catch_unwind;
use std::sync::Arc;

use cudarc::driver::sys::{CUdevice_attribute, CUfunction_attribute, CUgraphInstantiate_flags, CUstreamCaptureMode};
use cudarc::driver::{CudaContext, CudaFunction, CudaGraph, CudaModule, CudaStream, DriverError, result};
use cudarc::nvrtc::Ptx;

use super::code;
use super::device::{Device, DeviceFacts, Fault, Launch};
use crate::backend::BackendError;

/// Shared memory of a block that a kernel may have without asking.
const SHARED_BYTES_PLAIN: usize = 48 << 10;
/// Below this compute capability there is no int8 `mma` of 16 × 8 × 32.
const ARCHITECTURE_MIN: u32 = 80;

/// Why there is no card to compute on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoDevice {
    #[error("no NVIDIA driver is installed (libcuda.so was not found)")]
    NoDriver,
    #[error("the NVIDIA driver found no card")]
    NoCard,
    #[error("the NVIDIA driver gave the error {0}; see `nvidia-smi`")]
    Driver(String),
    #[error("{name} has compute capability {major}.{minor}, at least 8.0 is needed", major = .architecture / 10, minor = .architecture % 10)]
    TooOld { name: String, architecture: u32 },
    #[error(
        "this binary holds no machine code for compute capability {major}.{minor}, and NVRTC (libnvrtc.so.12) was not found to compile it; \
         take a release build, or install NVIDIA's package `cuda-nvrtc-12-9`", major = .architecture / 10, minor = .architecture % 10
    )]
    NoCode { architecture: u32 },
}

/// One card, and the one stream in which all is done.
pub struct CudaDevice {
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
    facts: DeviceFacts,
    modules: RefCell<HashMap<&'static str, Arc<CudaModule>>>,
    functions: RefCell<HashMap<String, CudaFunction>>,
    allocations: Cell<u64>,
}

/// Memory of the card.
pub struct CudaMemory {
    context: Arc<CudaContext>,
    address: u64,
    bytes: usize,
}

impl Drop for CudaMemory {
    fn drop(&mut self) {
        if self.context.bind_to_thread().is_ok() {
            // SAFETY: `address` is of `malloc_sync` and given back once. Freeing waits for the launches that use it.
            let _ = unsafe { result::free_sync(self.address) };
        }
    }
}

/// A recording. Only the thread that owns the device touches it.
pub struct RecordedSteps(CudaGraph);

// SAFETY: a graph must not be used by two threads at once; it is owned by a back end, which one thread owns at a time.
unsafe impl Send for RecordedSteps {}

impl CudaDevice {
    /// The card of that number, or why it can't be used. Never panics, whatever is or isn't installed.
    pub fn open(ordinal: usize) -> Result<Self, NoDevice> {
        // The binding panics where the library or one of its functions is missing.
        match catch_unwind(|| Self::open_checked(ordinal)) {
            Ok(opened) => opened,
            Err(_) => Err(NoDevice::Driver("that a function is missing: the driver is older than R525".to_owned())),
        }
    }

    fn open_checked(ordinal: usize) -> Result<Self, NoDevice> {
        // SAFETY: opens the library by its system names and calls nothing in it.
        if !unsafe { cudarc::driver::sys::is_culib_present() } {
            return Err(NoDevice::NoDriver);
        }
        let driver = |error: DriverError| NoDevice::Driver(said(error));
        if ordinal >= CudaContext::device_count().map_err(driver)?.max(0) as usize {
            return Err(NoDevice::NoCard);
        }
        let context = CudaContext::new(ordinal).map_err(driver)?;
        // SAFETY: before any allocation; everything runs in one stream, so nothing has to be ordered by events, which a recording
        // could not hold.
        unsafe { context.disable_event_tracking() };
        let stream = context.new_stream().map_err(driver)?;
        let attribute = |attribute| context.attribute(attribute).map(|value| value.max(0) as usize).map_err(driver);
        let (major, minor) = context.compute_capability().map_err(driver)?;
        let facts = DeviceFacts {
            name: context.name().map_err(driver)?,
            multiprocessors: attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
            architecture: (major * 10 + minor).max(0) as u32,
            memory_bytes: context.total_mem().map_err(driver)?,
            shared_bytes_max: attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?,
        };
        if facts.architecture < ARCHITECTURE_MIN {
            return Err(NoDevice::TooOld { name: facts.name, architecture: facts.architecture });
        }
        if code::embedded("embed", facts.architecture).is_none() && !compile::is_present() {
            return Err(NoDevice::NoCode { architecture: facts.architecture });
        }
        Ok(Self { context, stream, facts, modules: RefCell::default(), functions: RefCell::default(), allocations: Cell::new(0) })
    }

    fn function(&self, launch: &Launch) -> Result<CudaFunction, Fault> {
        if let Some(function) = self.functions.borrow().get(&launch.kernel) {
            return Ok(function.clone());
        }
        let module = self.module(launch.source)?;
        let function = module.load_function(&launch.kernel).map_err(fault)?;
        if launch.shared_bytes > SHARED_BYTES_PLAIN {
            let attribute = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            function.set_attribute(attribute, launch.shared_bytes as i32).map_err(fault)?;
        }
        self.functions.borrow_mut().insert(launch.kernel.clone(), function.clone());
        Ok(function)
    }

    fn module(&self, source: &'static str) -> Result<Arc<CudaModule>, Fault> {
        if let Some(module) = self.modules.borrow().get(source) {
            return Ok(Arc::clone(module));
        }
        let code = match code::embedded(source, self.facts.architecture) {
            Some(code) => code.to_vec(),
            None => compile::compile(source, self.facts.architecture).map_err(Fault)?,
        };
        let module = self.context.load_module(Ptx::from_binary(code)).map_err(fault)?;
        self.modules.borrow_mut().insert(source, Arc::clone(&module));
        Ok(module)
    }
}

impl Device for CudaDevice {
    type Memory = CudaMemory;
    type Graph = RecordedSteps;

    fn facts(&self) -> &DeviceFacts {
        &self.facts
    }

    fn free_bytes(&self) -> Result<usize, Fault> {
        self.context.mem_get_info().map(|(free, _)| free).map_err(fault)
    }

    fn allocate(&self, bytes: usize) -> Result<CudaMemory, BackendError> {
        self.context.bind_to_thread().map_err(|error| BackendError::Device(said(error)))?;
        self.allocations.set(self.allocations.get() + 1);
        // The driver allocates no empty piece.
        let bytes = bytes.max(1);
        // SAFETY: the result is checked, and owned by `CudaMemory`.
        let allocated = unsafe { result::malloc_sync(bytes) };
        let address = allocated.map_err(|error| match error.0 {
            cudarc::driver::sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY => BackendError::OutOfMemory { bytes },
            _ => BackendError::Device(said(error)),
        })?;
        Ok(CudaMemory { context: Arc::clone(&self.context), address, bytes })
    }

    fn allocations(&self) -> u64 {
        self.allocations.get()
    }

    fn address(&self, memory: &CudaMemory) -> u64 {
        memory.address
    }

    fn bytes(&self, memory: &CudaMemory) -> usize {
        memory.bytes
    }

    fn write(&self, to: &CudaMemory, offset: usize, bytes: &[u8]) -> Result<(), Fault> {
        assert!(offset + bytes.len() <= to.bytes, "a write lies inside its memory");
        self.context.bind_to_thread().map_err(fault)?;
        // SAFETY: inside the memory, as asserted. From pageable memory the call returns when the bytes are taken.
        unsafe { result::memcpy_htod_async(to.address + offset as u64, bytes, self.stream.cu_stream()) }.map_err(fault)
    }

    fn read(&self, from: &CudaMemory, offset: usize, bytes: &mut [u8]) -> Result<(), Fault> {
        assert!(offset + bytes.len() <= from.bytes, "a read lies inside its memory");
        self.context.bind_to_thread().map_err(fault)?;
        // SAFETY: inside the memory, as asserted; `bytes` is not touched until the stream has ended.
        unsafe { result::memcpy_dtoh_async(bytes, from.address + offset as u64, self.stream.cu_stream()) }.map_err(fault)?;
        self.stream.synchronize().map_err(fault)
    }

    unsafe fn launch(&self, launch: &Launch) -> Result<(), Fault> {
        self.context.bind_to_thread().map_err(fault)?;
        let function = self.function(launch)?;
        let [x, y, z] = launch.grid.map(|blocks| blocks as u32);
        let mut parameters: Vec<*mut c_void> =
            launch.arguments.iter().map(|argument| argument.0.as_ptr().cast_mut().cast::<c_void>()).collect();
        // SAFETY: the function is of a loaded module that `functions` keeps; the caller promises the parameters, which the driver
        // copies before it returns.
        let started = unsafe {
            result::launch_kernel(
                function.cu_function(),
                (x, y, z),
                (launch.threads as u32, 1, 1),
                launch.shared_bytes as u32,
                self.stream.cu_stream(),
                &mut parameters,
            )
        };
        started.map_err(|error| Fault(format!("{} at the start of {}", said(error), launch.kernel)))
    }

    fn record(&self) -> Result<bool, Fault> {
        self.stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).map(|()| true).map_err(fault)
    }

    fn recorded(&self) -> Result<RecordedSteps, Fault> {
        let graph = self.stream.end_capture(CUgraphInstantiate_flags(0)).map_err(fault)?;
        let graph = graph.ok_or_else(|| Fault("a recording was empty".to_owned()))?;
        graph.upload().map_err(fault)?;
        Ok(RecordedSteps(graph))
    }

    fn replay(&self, graph: &RecordedSteps) -> Result<(), Fault> {
        graph.0.launch().map_err(fault)
    }
}

fn said(error: DriverError) -> String {
    let text = |found: Result<&std::ffi::CStr, DriverError>| found.map(|text| text.to_string_lossy().into_owned()).unwrap_or_default();
    format!("{} ({})", text(error.error_name()), text(error.error_string()))
}

fn fault(error: DriverError) -> Fault {
    Fault(said(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_without_a_card_says_so_and_goes_on() {
        // SAFETY: as in `open_checked`.
        if !unsafe { cudarc::driver::sys::is_culib_present() } {
            assert_eq!(CudaDevice::open(0).err(), Some(NoDevice::NoDriver));
        }
        assert!(CudaDevice::open(4_096).is_err());
    }
}
