//! Decoding steps as recordings: a step of one row a sequence has the same launches every time, so they are recorded once for each
//! bucket of rows and started together. Tokens, places, tables and counts are read from the card's memory, so that a recording is never
//! changed.

use std::collections::{HashMap, HashSet};

use super::GpuBackend;
use super::device::Device;
use super::memory::StepInputs;
use super::plan::{self, bucket, tiles};
use crate::backend::{AttentionShape, Placement};

/// What tells recordings apart: rows, and chunks of the longest context, both rounded up. These two decide every shape.
type Key = (usize, usize);

/// What the step under way does with its launches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Mode {
    /// Starts each as it comes.
    #[default]
    Single,
    /// The same, and the next step of this key may be recorded: all memory that it needs is there.
    First(Key),
    Records(Key),
    /// All were started at once.
    Replays,
}

pub(super) struct Steps<D: Device> {
    mode: Mode,
    seen: HashSet<Key>,
    graphs: HashMap<Key, D::Graph>,
    /// Allocations when `graphs` and `seen` were made.
    allocations: u64,
    /// The device can't record.
    refused: bool,
}

impl<D: Device> Default for Steps<D> {
    fn default() -> Self {
        Self { mode: Mode::Single, seen: HashSet::new(), graphs: HashMap::new(), allocations: 0, refused: false }
    }
}

impl<D: Device> Steps<D> {
    pub(super) fn replays(&self) -> bool {
        self.mode == Mode::Replays
    }
}

impl<D: Device> GpuBackend<D> {
    /// Brings a step's inputs to the card, and starts its recording if there is one.
    pub(super) fn prepare_step(&mut self, shape: AttentionShape, placement: &Placement<'_>, tokens: &[u32], chosen: &[usize]) {
        self.steps.mode = Mode::Single;
        if self.fault.borrow().is_some() {
            return;
        }
        let tiles = tiles(placement, shape.heads / shape.kv_heads);
        let decodes = tiles.many.is_empty() && chosen.iter().copied().eq(0..tokens.len());
        let bucket = bucket(tokens.len()).filter(|_| decodes && !self.steps.refused);
        let stride = bucket.unwrap_or(tokens.len());
        let pages: usize = placement.tables.iter().map(|table| table.len()).sum();
        let longest = placement.tables.iter().map(|table| table.len()).max().unwrap_or(0);
        let reserve = bucket.map_or(pages, |bucket| bucket * longest.next_power_of_two());
        let step = StepInputs { placement, tokens, chosen, tiles: &tiles };
        let written = self.inputs.write(&self.device, stride, &step, reserve);
        if self.sound(written).is_none() {
            return;
        }
        self.forget_moved();
        let Some(bucket) = bucket else { return };
        let key = (bucket, plan::chunk_class(self.inputs.chunks));
        if let Some(graph) = self.steps.graphs.get(&key) {
            let replayed = self.device.replay(graph);
            if self.sound(replayed).is_some() {
                self.steps.mode = Mode::Replays;
            }
        } else if self.steps.seen.contains(&key) {
            let records = self.device.record();
            match self.sound(records) {
                Some(true) => self.steps.mode = Mode::Records(key),
                Some(false) => self.steps.refused = true,
                None => {}
            }
        } else {
            self.steps.mode = Mode::First(key);
        }
    }

    /// Drops recordings that may hold addresses of memory that was given back.
    fn forget_moved(&mut self) {
        let allocations = self.device.allocations();
        if self.steps.allocations != allocations {
            self.steps.graphs.clear();
            self.steps.seen.clear();
            self.steps.allocations = allocations;
        }
    }

    /// Ends a recording and starts what was recorded.
    pub(super) fn finish_step(&mut self) {
        match std::mem::take(&mut self.steps.mode) {
            Mode::First(key) => {
                self.forget_moved();
                self.steps.seen.insert(key);
            }
            Mode::Records(key) => {
                let graph = self.device.recorded();
                let Some(graph) = self.sound(graph) else { return };
                let replayed = self.device.replay(&graph);
                if self.sound(replayed).is_some() {
                    self.steps.graphs.insert(key, graph);
                }
            }
            Mode::Single | Mode::Replays => {}
        }
    }
}
