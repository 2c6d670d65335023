//! Pages of keys and values in host memory.
#![allow(unsafe_code)] // One shared writer, justified where it is made.

use std::marker::PhantomData;

use super::attention::head_offset;
use super::isa::dispatch;
use super::lanes::{LANES, Lanes};
use crate::backend::{BackendError, CacheShape, PAGE_TOKENS, PageId};

/// Memory for so many pages, taken from the system when a page is first used.
pub struct Pool {
    pub(super) shape: CacheShape,
    pages: Vec<Box<[u16]>>,
}

impl Pool {
    pub(super) fn new(shape: CacheShape, pages: usize) -> Result<Self, BackendError> {
        let mut slots = Vec::new();
        slots.try_reserve_exact(pages).map_err(|_| BackendError::OutOfMemory { bytes: pages * size_of::<Box<[u16]>>() })?;
        slots.resize_with(pages, Box::default);
        Ok(Self { shape, pages: slots })
    }

    /// f16 elements of a page.
    pub(super) fn page_elements(shape: CacheShape) -> usize {
        shape.layers * shape.kv_heads * shape.head_dim * PAGE_TOKENS * 2
    }

    /// Gives the page its memory.
    pub(super) fn prepare(&mut self, page: PageId) -> Result<(), BackendError> {
        let elements = Self::page_elements(self.shape);
        let slot = &mut self.pages[page.0 as usize];
        if slot.is_empty() {
            let mut memory = Vec::new();
            memory.try_reserve_exact(elements).map_err(|_| BackendError::OutOfMemory { bytes: elements * 2 })?;
            memory.resize(elements, 0);
            *slot = memory.into_boxed_slice();
        }
        Ok(())
    }

    pub(super) fn page(&self, page: PageId) -> &[u16] {
        &self.pages[page.0 as usize]
    }

    pub(super) fn writer(&mut self) -> PageWriter<'_> {
        let pages = self.pages.iter_mut().map(|page| (page.as_mut_ptr(), page.len())).collect();
        PageWriter { shape: self.shape, pages, borrow: PhantomData }
    }
}

/// The pages while several tasks write, each its own positions.
pub(super) struct PageWriter<'a> {
    shape: CacheShape,
    pages: Vec<(*mut u16, usize)>,
    borrow: PhantomData<&'a mut [u16]>,
}

// SAFETY: access goes through `append`, whose callers promise that no two tasks share a position.
unsafe impl Sync for PageWriter<'_> {}

impl PageWriter<'_> {
    /// Writes keys and values of all heads, `[kv_heads × head_dim]` each, at a position of a page.
    ///
    /// # Safety
    /// `isa` is available; no other task writes this position, and none reads the page meanwhile.
    pub(super) unsafe fn append(&self, isa: super::Isa, layer: usize, page: PageId, slot: usize, k: &[f32], v: &[f32]) {
        let CacheShape { kv_heads, head_dim, .. } = self.shape;
        let (start, elements) = self.pages[page.0 as usize];
        assert!(k.len() == kv_heads * head_dim && v.len() == k.len() && slot < PAGE_TOKENS, "one position of all heads");
        assert!(head_offset(self.shape, layer, kv_heads) <= elements, "the page was prepared and has this layer");
        for (head, (k, v)) in k.chunks_exact(head_dim).zip(v.chunks_exact(head_dim)).enumerate() {
            // SAFETY: the assertions bound head and slot; the caller promises that nobody else touches them.
            unsafe {
                let keys = start.add(head_offset(self.shape, layer, head));
                append_head(isa, keys, slot, k, v);
            }
        }
    }
}

dispatch! { unsafe fn append_head = head_lanes(keys: *mut u16, slot: usize, k: &[f32], v: &[f32]) }

#[inline(always)]
unsafe fn head_lanes<L: Lanes>(keys: *mut u16, slot: usize, k: &[f32], v: &[f32]) {
    let head_dim = k.len();
    // SAFETY: behind `keys` stand `[head_dim][64]` keys, then `[64][head_dim]` values, by the caller.
    unsafe {
        let values = keys.add((PAGE_TOKENS + slot) * head_dim);
        for first in (0..head_dim).step_by(LANES) {
            let mut narrow = [0u16; LANES];
            L::store_f16(narrow.as_mut_ptr(), L::load(k.as_ptr().add(first)));
            for (dimension, key) in (first..).zip(narrow) {
                *keys.add(dimension * PAGE_TOKENS + slot) = key;
            }
            L::store_f16(values.add(first), L::load(v.as_ptr().add(first)));
        }
    }
}
