//! Files to which something referred, over real routers, with a store in memory.

use bytes::Bytes;
use carillon_proto::{
    MediaId,
    pb::store::{
        CollectMedia, FindMediaHolders, MediaReleased, NoteReleasedMedia, OutboxRow, outbox_read, outbox_row::Task,
    },
};

use crate::support::{AboutFiles, Cluster};

fn file(shard: u16, number: u8) -> Bytes {
    Bytes::copy_from_slice(MediaId::new(shard, [number; 14]).as_bytes())
}

fn row(task: Task) -> outbox_read::Row {
    let row = OutboxRow { task: Some(task), ..OutboxRow::default() };
    outbox_read::Row { index: 5, row: Some(row), ..outbox_read::Row::default() }
}

#[tokio::test]
async fn all_shards_are_asked_who_holds_files_before_some_are_collected() {
    let cluster = Cluster::start(1, &[]).await;
    let _link = cluster.gateway().await;
    cluster.store.has_groups();
    cluster.store.holds(2, file(2, 1));
    cluster.store.holds(0, file(2, 2));
    cluster.store.holds(3, file(2, 4));
    // Answers are lost: it is done once more, and says the same.
    cluster.store.lose_answers(1);
    let ids = (1..=4).map(|number| file(2, number)).collect();
    cluster.store.has_row_in(2, row(Task::FindMediaHolders(FindMediaHolders { ids, check: 7 })));
    cluster.wait_until("nothing is left to be done", || cluster.store.outboxes_are_empty()).await;
    let held = vec![file(2, 1), file(2, 2), file(2, 4)];
    let found = AboutFiles::Collected(CollectMedia { check: 7, held, unheld: vec![file(2, 3)] });
    let heard = cluster.store.about_files();
    assert!(!heard.is_empty() && heard.iter().all(|heard| *heard == (2, found.clone())), "{heard:?}");
    cluster.stop().await;
}

#[tokio::test]
async fn the_shards_of_files_are_told_that_another_one_has_let_go_of_them() {
    let cluster = Cluster::start(1, &[]).await;
    let _link = cluster.gateway().await;
    cluster.store.has_groups();
    // There is no shard 9.
    let ids = vec![file(0, 1), file(3, 2), file(9, 3), file(0, 4)];
    cluster.store.has_row_in(1, row(Task::MediaReleased(MediaReleased { ids })));
    cluster.wait_until("nothing is left to be done", || cluster.store.outboxes_are_empty()).await;
    let told = |ids: &[Bytes]| AboutFiles::Released(NoteReleasedMedia { ids: ids.to_vec() });
    assert_eq!(cluster.store.about_files(), [(0, told(&[file(0, 1), file(0, 4)])), (3, told(&[file(3, 2)]))]);
    cluster.stop().await;
}
