use crate::{
    Catalog, CatalogError, CatalogService, CatalogStore, GroupSettings, LocalCatalogStore, MemoryCatalogStore,
};
use crate::{ChangeError, CreateError, TopicSettings, VERSIONS_KEPT};
use martlet_model::UnixMillis;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

const NOW: UnixMillis = UnixMillis(1_700_000_000_000);

fn create(name: &str) -> impl FnMut(&mut Catalog) -> Result<u32, ChangeError> {
    move |catalog| Ok(catalog.create_topic(name, &TopicSettings::default(), NOW, false)?.id.0)
}

#[tokio::test]
async fn changes_are_there_after_reopening_and_old_versions_go() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("catalog");
    let service = CatalogService::open(LocalCatalogStore::open(&path).unwrap()).await.unwrap();
    assert_eq!(service.snapshot().version(), 0);
    for number in 0..40 {
        service.change(create(&format!("t{number}"))).await.unwrap();
    }
    let before = service.snapshot();
    drop(service);
    std::fs::write(path.join("0000000041-0.tmp"), b"half a fi").unwrap();
    let service = CatalogService::open(LocalCatalogStore::open(&path).unwrap()).await.unwrap();
    assert_eq!(service.snapshot(), before);
    assert_eq!(before.version(), 40);
    let names: BTreeSet<String> =
        std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(names.len(), VERSIONS_KEPT);
    assert_eq!(names.last().unwrap(), "0000000040.json");
}

#[tokio::test]
async fn a_damaged_newest_version_is_named_and_not_passed_over() {
    let folder = tempfile::tempdir().unwrap();
    let service = CatalogService::open(LocalCatalogStore::open(folder.path()).unwrap()).await.unwrap();
    service.change(create("a")).await.unwrap();
    service.change(create("b")).await.unwrap();
    let newest = folder.path().join("0000000002.json");
    let text = std::fs::read_to_string(&newest).unwrap();
    std::fs::write(&newest, text.replace("\"b\"", "\"x\"")).unwrap();
    let Err(error) = CatalogService::open(LocalCatalogStore::open(folder.path()).unwrap()).await else {
        panic!("a damaged catalog was opened")
    };
    assert!(error.to_string().starts_with(&format!("{}: damaged catalog: checksum", newest.display())), "{error}");
}

#[tokio::test]
async fn a_version_is_created_once_and_keeps_its_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let store = LocalCatalogStore::open(folder.path()).unwrap();
    store.create(1, "first".into()).await.unwrap();
    assert!(matches!(store.create(1, "second".into()).await, Err(CreateError::Exists { version: 1 })));
    assert_eq!(store.latest().await.unwrap(), Some((1, "first".into())));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[tokio::test]
async fn a_refused_change_and_a_change_of_nothing_create_no_version() {
    let service = CatalogService::open(MemoryCatalogStore::default()).await.unwrap();
    service.change(create("a")).await.unwrap();
    service.change(create("a")).await.unwrap();
    let refused = service.change(|catalog| catalog.delete_topic("b")).await;
    assert!(matches!(refused, Err(CatalogError::Change(ChangeError::TopicNotFound { .. }))));
    assert_eq!(service.snapshot().version(), 1);
}

#[tokio::test]
async fn a_refusal_is_judged_on_what_others_have_done_meanwhile() {
    let store = MemoryCatalogStore::default();
    let here = CatalogService::open(store.clone()).await.unwrap();
    let there = CatalogService::open(store).await.unwrap();
    there.change(create("a")).await.unwrap();
    here.change(|catalog| catalog.delete_topic("a")).await.unwrap();
    assert_eq!(there.refresh().await.unwrap().version(), 2);
}

#[tokio::test]
async fn a_failed_write_is_told_and_a_lost_answer_is_found_out_by_the_next_change() {
    let store = MemoryCatalogStore::default();
    let service = CatalogService::open(store.clone()).await.unwrap();
    store.fail_creates(1);
    assert!(matches!(service.change(create("a")).await, Err(CatalogError::Write(_))));
    assert_eq!(service.snapshot().topics().len(), 0);
    store.fail_after_creates(1);
    assert!(matches!(service.change(create("b")).await, Err(CatalogError::Write(_))));
    let (_, catalog) = service.change(create("c")).await.unwrap();
    assert!(catalog.topic("a").is_none() && catalog.topic("b").is_some() && catalog.topic("c").is_some());
}

#[derive(Clone, Debug)]
enum Operation {
    CreateTopic(u8),
    DeleteTopic(u8),
    Grow(u8),
    CreateGroup(u8),
    DeleteGroup(u8),
}

fn operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        3 => (0..6u8).prop_map(Operation::CreateTopic),
        2 => (0..6u8).prop_map(Operation::DeleteTopic),
        3 => (0..6u8).prop_map(Operation::Grow),
        1 => (0..3u8).prop_map(Operation::CreateGroup),
        1 => (0..3u8).prop_map(Operation::DeleteGroup),
    ]
}

/// What one accepted change did, and the version it made.
type Journal = Vec<(u64, Operation, u32)>;

async fn run(service: Arc<CatalogService<MemoryCatalogStore>>, operations: Vec<Operation>) -> Journal {
    let mut journal = Vec::new();
    for operation in operations {
        let before = service.snapshot().version();
        let outcome = service
            .change(|catalog| match &operation {
                Operation::CreateTopic(name) => {
                    let one = TopicSettings { queues: Some(1), ..TopicSettings::default() };
                    // Exists and has grown: refused. Exists and has not: the same topic.
                    Ok(catalog.create_topic(&format!("t{name}"), &one, NOW, false)?.id.0)
                }
                Operation::DeleteTopic(name) => Ok(catalog.delete_topic(&format!("t{name}"))?.id.0),
                Operation::Grow(name) => {
                    let name = format!("t{name}");
                    let queues = catalog.topic(&name).map_or(1, |topic| topic.write_queues + 1);
                    let grown = TopicSettings { queues: Some(queues), ..TopicSettings::default() };
                    Ok(catalog.update_topic(&name, &grown)?.write_queues)
                }
                Operation::CreateGroup(name) => {
                    Ok(catalog.create_group(&format!("g{name}"), &GroupSettings::default(), NOW, false)?.id.0)
                }
                Operation::DeleteGroup(name) => Ok(catalog.delete_group(&format!("g{name}"))?.id.0),
            })
            .await;
        match outcome {
            Ok((value, catalog)) if catalog.version() > before => journal.push((catalog.version(), operation, value)),
            Ok(_) | Err(CatalogError::Change(_)) => {}
            Err(error) => panic!("{error}"),
        }
    }
    journal
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Three services on one store, two tasks each. Replaying the accepted changes in order of the versions they made
    /// gives the final catalog: none was overwritten, none was judged on anything but its predecessor.
    #[test]
    fn concurrent_changes_never_overwrite_each_other(
        plans in prop::collection::vec(prop::collection::vec(operation(), 1..20), 6)
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let store = MemoryCatalogStore::default();
            let mut services = Vec::new();
            for _ in 0..3 {
                services.push(Arc::new(CatalogService::open(store.clone()).await.unwrap()));
            }
            let tasks: Vec<_> = plans
                .into_iter()
                .enumerate()
                .map(|(task, plan)| tokio::spawn(run(services[task % 3].clone(), plan)))
                .collect();
            let mut by_version = BTreeMap::new();
            for task in tasks {
                for (version, operation, value) in task.await.unwrap() {
                    // A change that met another's version and then changed nothing reports that version too.
                    by_version.entry(version).or_insert_with(Vec::new).push((operation, value));
                }
            }
            let (version, bytes) = store.latest().await.unwrap().unwrap_or_default();
            let last = if version == 0 { Catalog::default() } else { Catalog::decode(version, &bytes).unwrap() };
            let mut topics: BTreeMap<u8, (u32, u32)> = BTreeMap::new();
            let mut groups: BTreeMap<u8, u32> = BTreeMap::new();
            let mut ids = BTreeSet::new();
            for version in 1..=version {
                let mut made = 0;
                for (operation, value) in &by_version[&version] {
                    match operation {
                        Operation::CreateTopic(name) if !topics.contains_key(name) => {
                            assert!(ids.insert(*value), "topic id {value} was given out twice");
                            topics.insert(*name, (*value, 1));
                        }
                        Operation::CreateTopic(name) => {
                            assert_eq!(topics[name], (*value, 1));
                            continue;
                        }
                        Operation::DeleteTopic(name) => assert_eq!(topics.remove(name).unwrap().0, *value),
                        Operation::Grow(name) => {
                            let topic = topics.get_mut(name).unwrap();
                            topic.1 += 1;
                            assert_eq!(topic.1, *value, "a growth of t{name} was lost");
                        }
                        Operation::CreateGroup(name) if !groups.contains_key(name) => {
                            groups.insert(*name, *value);
                        }
                        Operation::CreateGroup(name) => {
                            assert_eq!(groups[name], *value);
                            continue;
                        }
                        Operation::DeleteGroup(name) => assert_eq!(groups.remove(name).unwrap(), *value),
                    }
                    made += 1;
                }
                assert_eq!(made, 1, "version {version} holds {made} changes");
            }
            let found: BTreeMap<String, (u32, u32)> =
                last.topics().map(|topic| (topic.name.clone(), (topic.id.0, topic.write_queues))).collect();
            let expected = topics.into_iter().map(|(name, topic)| (format!("t{name}"), topic)).collect();
            assert_eq!(found, expected);
            let found: BTreeMap<String, u32> =
                last.groups().map(|group| (group.name.clone(), group.id.0)).collect();
            assert_eq!(found, groups.into_iter().map(|(name, id)| (format!("g{name}"), id)).collect());
        });
    }
}

#[test]
fn a_local_catalog_opens_without_a_runtime() {
    let folder = tempfile::tempdir().unwrap();
    let store = LocalCatalogStore::open(folder.path()).unwrap();
    let opening = std::pin::pin!(CatalogService::open(store));
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    assert!(opening.poll(&mut context).is_ready());
}

fn bucket() -> martlet_bucket::Bucket {
    let memory = std::sync::Arc::new(object_store::memory::InMemory::new());
    martlet_bucket::Bucket::of_store("memory:".parse().unwrap(), memory, "test").unwrap()
}

#[test]
fn in_a_bucket_a_node_that_has_not_looked_for_long_changes_what_is_newest() {
    let bucket = bucket();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let opened = || CatalogService::open(crate::BucketCatalogStore::new(bucket.clone()));
        let (busy, idle) = (opened().await.unwrap(), opened().await.unwrap());
        let count = 2 * VERSIONS_KEPT;
        for number in 0..count {
            busy.change(create(&format!("t{number}"))).await.unwrap();
        }
        // Its next version was there, and was removed as an old one.
        idle.change(create("late")).await.unwrap();
        assert_eq!(idle.snapshot().topics().len(), count + 1);
        assert_eq!(opened().await.unwrap().snapshot().topics().len(), count + 1, "an acknowledged change was lost");
    });
}

#[test]
fn in_a_bucket_concurrent_changes_never_overwrite_each_other_and_old_versions_go() {
    let bucket = bucket();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    let opened = || CatalogService::open(crate::BucketCatalogStore::new(bucket.clone()));
    let nodes: Vec<_> = (0..4).map(|_| Arc::new(runtime.block_on(opened()).unwrap())).collect();
    let changes: Vec<_> = nodes
        .into_iter()
        .enumerate()
        .map(|(node, service)| {
            runtime.spawn(async move {
                for number in 0..10 {
                    service.change(create(&format!("t{node}-{number}"))).await.unwrap();
                }
            })
        })
        .collect();
    for change in changes {
        runtime.block_on(change).unwrap();
    }
    let catalog = runtime.block_on(opened()).unwrap().snapshot();
    assert_eq!((catalog.topics().len(), catalog.version()), (40, 40));
    let ids: BTreeSet<u32> = catalog.topics().map(|topic| topic.id.0).collect();
    assert_eq!(ids.len(), 40, "an id was given out twice");
    let store = bucket.store().clone();
    let folder = bucket.path("catalog");
    let kept = runtime.block_on(async move { futures_util::StreamExt::count(store.list(Some(&folder))).await });
    assert!(kept <= VERSIONS_KEPT + 4, "{kept} versions");
}
