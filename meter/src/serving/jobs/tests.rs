use std::sync::Arc;

use daemon::clock::ManualClock;

use super::*;

const MINE: AccountId = AccountId(1);

fn jobs(change: impl FnOnce(&mut Limits)) -> (Arc<Jobs>, Arc<ManualClock>) {
    let mut limits = Limits::default();
    change(&mut limits);
    let clock = ManualClock::at_s(1_000);
    (Jobs::new(&limits, clock.clone()), clock)
}

async fn start(jobs: &Arc<Jobs>, key: &str) -> (Arc<Job>, JobWriter) {
    let Claim::New(opening) = jobs.claim(job_id(MINE, key.as_bytes()), MINE, [0; 32]).await else { panic!("{key} was there") };
    opening.open("m".into(), CancellationToken::new())
}

fn texts(read: Read) -> (u64, Vec<String>, bool) {
    let Read::Events { first, events, over } = read else { panic!("{read:?}") };
    (first, events.iter().map(|event| String::from_utf8(event.to_vec()).unwrap()).collect(), over)
}

#[tokio::test]
async fn events_are_replayed_from_any_number_and_then_followed() {
    let (jobs, _) = jobs(|_| {});
    let (job, writer) = start(&jobs, "a").await;
    assert_eq!(job.progress(), (JobState::Queued, 0));
    writer.started();
    writer.push("one".into());
    writer.push("two".into());
    assert_eq!(texts(job.read(0)), (1, vec!["one".into(), "two".into()], false));
    assert_eq!(texts(job.read(1)), (2, vec!["two".into()], false));
    assert_eq!(texts(job.read(2)), (3, vec![], false));
    assert_eq!(texts(job.read(u64::MAX)).1, Vec::<String>::new());
    let mut follow = job.follow();
    writer.push("three".into());
    writer.end(true);
    follow.changed().await.unwrap();
    assert_eq!(texts(job.read(2)), (3, vec!["three".into()], true));
    assert_eq!(job.progress(), (JobState::Done, 3));
}

#[tokio::test]
async fn a_key_opens_one_job_and_other_words_are_told_apart() {
    let (jobs, _) = jobs(|_| {});
    let id = job_id(MINE, b"a");
    let Claim::New(opening) = jobs.claim(id, MINE, [7; 32]).await else { panic!() };
    assert!(matches!(jobs.claim(id, MINE, [8; 32]).await, Claim::Other));
    let waiting = tokio::spawn({
        let jobs = Arc::clone(&jobs);
        async move { jobs.claim(id, MINE, [7; 32]).await }
    });
    tokio::task::yield_now().await;
    let (job, _writer) = opening.open("m".into(), CancellationToken::new());
    let Claim::Same(same) = waiting.await.unwrap() else { panic!("opened twice") };
    assert!(Arc::ptr_eq(&job, &same));
    assert!(matches!(jobs.claim(id, MINE, [8; 32]).await, Claim::Other));
}

#[tokio::test]
async fn an_opening_that_failed_leaves_the_key_free() {
    let (jobs, _) = jobs(|_| {});
    let id = job_id(MINE, b"a");
    drop(jobs.claim(id, MINE, [7; 32]).await);
    assert!(matches!(jobs.claim(id, MINE, [8; 32]).await, Claim::New(_)));
}

#[tokio::test]
async fn nobody_else_finds_a_job_and_nobody_finds_an_old_one() {
    let (jobs, clock) = jobs(|limits| limits.jobs_kept_s = 10);
    let (job, writer) = start(&jobs, "a").await;
    assert!(jobs.of(AccountId(2), job.id).is_none());
    clock.advance_ms(1_000_000);
    assert!(jobs.of(MINE, job.id).is_some(), "a running job stays");
    writer.end(true);
    clock.advance_ms(9_000);
    assert!(jobs.of(MINE, job.id).is_some());
    clock.advance_ms(1_000);
    assert!(jobs.of(MINE, job.id).is_none());
    assert_ne!(job_id(MINE, b"a"), job_id(AccountId(2), b"a"));
}

#[tokio::test]
async fn the_oldest_ended_jobs_make_room() {
    let (jobs, clock) = jobs(|limits| (limits.jobs_per_account_max, limits.jobs_bytes_per_account_max) = (2, 100));
    let mut ids = Vec::new();
    for key in ["a", "b", "c"] {
        let (job, writer) = start(&jobs, key).await;
        writer.push("x".repeat(30).into());
        writer.end(true);
        clock.advance_ms(1_000);
        ids.push(job.id);
    }
    assert!(jobs.of(MINE, ids[0]).is_none() && jobs.of(MINE, ids[1]).is_some());
    let (big, writer) = start(&jobs, "d").await;
    writer.push("x".repeat(90).into());
    writer.end(true);
    assert!(jobs.of(MINE, ids[2]).is_none() && jobs.of(MINE, big.id).is_some());
}

#[tokio::test]
async fn a_full_log_loses_its_beginning_and_says_so() {
    let (jobs, _) = jobs(|limits| limits.job_bytes_max = 6);
    let (job, writer) = start(&jobs, "a").await;
    for event in ["one", "two", "three"] {
        writer.push(event.into());
    }
    assert_eq!(job.read(0), Read::Dropped { oldest: 3 });
    assert_eq!(texts(job.read(2)), (3, vec!["three".into()], false));
    assert_eq!(job.progress(), (JobState::Queued, 3));
}

#[tokio::test]
async fn a_writer_that_dies_ends_its_job() {
    let (jobs, _) = jobs(|_| {});
    let (job, writer) = start(&jobs, "a").await;
    drop(writer);
    assert_eq!(job.progress().0, JobState::Failed);
}
