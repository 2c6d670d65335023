//! The journal: one writer, one deployment, compare-and-set.

use alloy::primitives::Address;
use keeper::journal::{Journal, JournalBatch, JournalError, NewBatch, State};
use wire::B256;
use wire::deployment::Deployment;
use wire::settlement::BatchProposal;

fn deployment(chain_id: u64) -> Deployment {
    Deployment {
        chain_id,
        deploy_block: 0,
        prlx: Address::ZERO,
        credits: Address::ZERO,
        settlement: Address::repeat_byte(1),
        registry: Address::ZERO,
        exit_delay: 1,
        velocity_window: 1,
        fee_bps: 0,
        settler: Address::ZERO,
    }
}

fn new(seq: u64) -> NewBatch {
    let proposal = BatchProposal { seq, receipts: vec![], carries: vec![], rows: vec![1].into(), receipts_root: B256::ZERO, deadline: 9 };
    NewBatch { proposal, countersignature: None, amounts: vec![], from_block: 3 }
}

#[tokio::test]
async fn the_second_of_two_writers_loses_and_nothing_is_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    let journal = Journal::open(&folder.path().join("j.sqlite"), &deployment(1)).await.unwrap();
    let planned = journal.insert(&new(1), 10).await.unwrap();
    let to = |state, note: &str| JournalBatch { state, note: note.into(), ..planned.clone() };
    let first = journal.advance(&planned, to(State::Signed, "first"), 11).await.unwrap();
    let lost = journal.advance(&planned, to(State::Quarantined, "second"), 12).await.unwrap_err();
    assert!(matches!(lost, JournalError::Lost { seq: 1, version: 0 }), "{lost}");
    assert_eq!(journal.active().await.unwrap(), Some(first));
}

#[tokio::test]
async fn arrows_that_do_not_exist_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let journal = Journal::open(&folder.path().join("j.sqlite"), &deployment(1)).await.unwrap();
    let planned = journal.insert(&new(1), 10).await.unwrap();
    for state in [State::Final, State::Sent] {
        let error = journal.advance(&planned, JournalBatch { state, ..planned.clone() }, 11).await.unwrap_err();
        assert!(matches!(error, JournalError::NoArrow { .. }), "{error}");
    }
    assert_eq!(journal.active().await.unwrap(), Some(planned));
}

#[tokio::test]
async fn one_live_batch_for_each_number() {
    let folder = tempfile::tempdir().unwrap();
    let journal = Journal::open(&folder.path().join("j.sqlite"), &deployment(1)).await.unwrap();
    let planned = journal.insert(&new(1), 10).await.unwrap();
    assert!(journal.insert(&new(1), 10).await.is_err());
    journal.advance(&planned, JournalBatch { state: State::Replaced, ..planned.clone() }, 11).await.unwrap();
    assert_eq!(journal.insert(&new(1), 12).await.unwrap().id, planned.id + 1);
}

#[tokio::test]
async fn a_second_process_and_another_deployment_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("j.sqlite");
    let journal = Journal::open(&path, &deployment(1)).await.unwrap();
    let error = Journal::open(&path, &deployment(1)).await.unwrap_err();
    assert!(matches!(error, JournalError::Lock { .. }), "{error}");
    drop(journal);
    let error = Journal::open(&path, &deployment(2)).await.unwrap_err();
    assert!(matches!(error, JournalError::OtherDeployment { chain_id: 2, .. }), "{error}");
    Journal::open(&path, &deployment(1)).await.unwrap();
}
