//! The receipts on disk: torn writes, damage, two processes, limits.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use gpu_node::link::outbox::{Kept, Outbox, OutboxError};
use gpu_node::link::terms::Terms;
use proptest::prelude::*;
use wire::{B256, Bytes};

use crate::rig::{NOW_S, job, model};

fn kept(id: u8) -> Kept {
    let receipt = Terms::of(&job(id), &model()).receipt(&[1, 2], B256::ZERO, NOW_S).unwrap();
    Kept { meter: "ws://meter/v1/node/link".into(), receipt, signature: Bytes::from(vec![id; 65]) }
}

fn ids(outbox: &Outbox) -> Vec<u8> {
    outbox.pending(|_| true).iter().map(|kept| kept.receipt.request_id[0]).collect()
}

#[test]
fn receipts_survive_a_reopening_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let outbox = Outbox::open(folder.path(), 10).unwrap();
    for id in 1..=4 {
        outbox.add(kept(id)).unwrap();
    }
    assert!(outbox.acknowledge(&B256::repeat_byte(2)).unwrap());
    assert!(!outbox.acknowledge(&B256::repeat_byte(2)).unwrap());
    assert!(!outbox.acknowledge(&B256::repeat_byte(99)).unwrap());
    let before = outbox.pending(|_| true);
    drop(outbox);
    let outbox = Outbox::open(folder.path(), 10).unwrap();
    assert_eq!(outbox.pending(|_| true), before);
    assert_eq!(ids(&outbox), [1, 3, 4]);
    let mode = fs::metadata(folder.path().join("receipts.journal")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn damage_that_is_no_torn_end_is_an_error_with_its_line() {
    let folder = tempfile::tempdir().unwrap();
    let outbox = Outbox::open(folder.path(), 10).unwrap();
    (1..=3).for_each(|id| outbox.add(kept(id)).unwrap());
    drop(outbox);
    let path = folder.path().join("receipts.journal");
    let mut bytes = fs::read(&path).unwrap();
    let second_line = bytes.iter().position(|byte| *byte == b'\n').unwrap() + 1;
    bytes[second_line + 5] = 0;
    fs::write(&path, &bytes).unwrap();
    let error = Outbox::open(folder.path(), 10).unwrap_err();
    assert!(matches!(error, OutboxError::Damaged { line: 2, .. }), "{error}");
    assert_eq!(fs::read(&path).unwrap(), bytes, "a damaged journal is left as it is");
}

#[test]
fn a_second_process_is_told_who_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let _first = Outbox::open(folder.path(), 10).unwrap();
    let error = Outbox::open(folder.path(), 10).unwrap_err();
    assert!(matches!(error, OutboxError::Locked { .. }) && error.to_string().contains("state_dir"), "{error}");
}

#[test]
fn a_full_outbox_takes_no_new_request_but_replaces_an_old_one() {
    let folder = tempfile::tempdir().unwrap();
    let outbox = Outbox::open(folder.path(), 2).unwrap();
    outbox.add(kept(1)).unwrap();
    assert!(outbox.has_room_for(1) && !outbox.has_room_for(2));
    outbox.add(kept(2)).unwrap();
    assert!(matches!(outbox.add(kept(3)), Err(OutboxError::Full { kept: 2, capacity: 2 })));
    let lower = Kept { signature: Bytes::from(vec![9; 65]), ..kept(1) };
    outbox.add(lower.clone()).unwrap();
    assert_eq!(outbox.len(), 2);
    assert!(outbox.pending(|_| true).contains(&lower));
}

#[test]
fn a_long_life_does_not_grow_the_journal() {
    let folder = tempfile::tempdir().unwrap();
    let outbox = Outbox::open(folder.path(), 10).unwrap();
    outbox.add(kept(200)).unwrap();
    for round in 0..3_000u32 {
        let id = (round % 100) as u8;
        outbox.add(kept(id)).unwrap();
        outbox.acknowledge(&B256::repeat_byte(id)).unwrap();
    }
    let bytes = fs::metadata(folder.path().join("receipts.journal")).unwrap().len();
    assert!(bytes < 4 << 20, "{bytes}");
    drop(outbox);
    assert_eq!(ids(&Outbox::open(folder.path(), 10).unwrap()), [200]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever the moment of a power cut, what is read back is what stood after some whole number of steps.
    #[test]
    fn a_cut_at_any_byte_reads_back_as_an_earlier_moment(steps in prop::collection::vec((any::<bool>(), 0u8..4), 1..12), cut in 0.0f64..=1.0) {
        let folder = tempfile::tempdir().unwrap();
        let outbox = Outbox::open(folder.path(), 10).unwrap();
        let mut moments = vec![Vec::new()];
        for (add, id) in steps {
            if add { outbox.add(kept(id)).unwrap() } else { let _ = outbox.acknowledge(&B256::repeat_byte(id)).unwrap(); }
            moments.push(ids(&outbox));
        }
        drop(outbox);
        let path = folder.path().join("receipts.journal");
        let bytes = fs::read(&path).unwrap();
        let end = (bytes.len() as f64 * cut) as usize;
        fs::write(&path, &bytes[..end]).unwrap();
        let outbox = Outbox::open(folder.path(), 10).unwrap();
        prop_assert!(moments.contains(&ids(&outbox)));
        outbox.add(kept(77)).unwrap();
        drop(outbox);
        prop_assert!(ids(&Outbox::open(folder.path(), 10).unwrap()).contains(&77));
    }
}
