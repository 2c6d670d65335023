//! What the back end needs of a card. The driver is one such device; the tests have one that runs the kernels' text on the processor.

use crate::backend::BackendError;

/// Why the device is of no use any more: the driver's words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Fault(pub String);

/// What is known of a card before anything is computed on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceFacts {
    /// As its maker calls it.
    pub name: String,
    /// How many blocks it can work on at least.
    pub multiprocessors: usize,
    /// Such as 90 for compute capability 9.0.
    pub architecture: u32,
    /// All of its memory.
    pub memory_bytes: usize,
    /// Most shared memory of one block.
    pub shared_bytes_max: usize,
}

/// One kernel's start.
#[derive(Debug, Clone, PartialEq)]
pub struct Launch {
    /// The kernel's source, without ending.
    pub source: &'static str,
    /// The `extern "C"` entry.
    pub kernel: String,
    /// Blocks.
    pub grid: [usize; 3],
    /// Threads of a block.
    pub threads: usize,
    /// Beside what the kernel declares itself.
    pub shared_bytes: usize,
    /// In the order of the kernel's parameters.
    pub arguments: Vec<Argument>,
}

/// A parameter as the kernel finds it: its bytes, from an address that is a multiple of 8.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Argument(pub Vec<u64>);

impl Argument {
    /// An address, or 64 bits.
    pub fn word(value: u64) -> Self {
        Self(vec![value])
    }

    pub fn int(value: usize) -> Self {
        Self(vec![low(value)])
    }

    pub fn float(value: f32) -> Self {
        Self(vec![u64::from(value.to_bits())])
    }
}

/// An `int` in the lower half of a word.
pub fn low(value: usize) -> u64 {
    u64::from(value as u32)
}

/// Two `int`s, the first one in front.
pub fn pair(first: usize, second: usize) -> u64 {
    low(first) | low(second) << 32
}

/// A card, or what stands in for one. Everything is done in the order of the calls.
pub trait Device: Send + 'static {
    /// A piece of the card's memory, given back when dropped.
    type Memory: Send;
    /// A recorded sequence of launches.
    type Graph: Send;

    fn facts(&self) -> &DeviceFacts;
    /// Not taken by anybody.
    fn free_bytes(&self) -> Result<usize, Fault>;
    /// Memory of unknown contents, or that there is none.
    fn allocate(&self, bytes: usize) -> Result<Self::Memory, BackendError>;
    /// How many pieces were allocated so far. Recordings hold addresses, so they are good for one number only.
    fn allocations(&self) -> u64;
    /// Where the kernels find it; a multiple of 256.
    fn address(&self, memory: &Self::Memory) -> u64;
    fn bytes(&self, memory: &Self::Memory) -> usize;
    /// Copies to the card, in order with the launches. Inside the memory.
    fn write(&self, to: &Self::Memory, offset: usize, bytes: &[u8]) -> Result<(), Fault>;
    /// Waits for all that was started, and copies from the card. Inside the memory.
    fn read(&self, from: &Self::Memory, offset: usize, bytes: &mut [u8]) -> Result<(), Fault>;
    /// Starts a kernel.
    ///
    /// # Safety
    /// The arguments are of the kernel's types, and every address among them has the memory that the kernel's head describes.
    #[allow(unsafe_code)] // Of the trait, because a kernel believes its arguments.
    unsafe fn launch(&self, launch: &Launch) -> Result<(), Fault>;
    /// Launches are recorded from here on instead of done. `false` where the device can't.
    fn record(&self) -> Result<bool, Fault>;
    fn recorded(&self) -> Result<Self::Graph, Fault>;
    /// Does what was recorded.
    fn replay(&self, graph: &Self::Graph) -> Result<(), Fault>;
}
