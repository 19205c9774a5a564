//! A farm whose facades and fetchers are processes of their own: what one brings in, all read.

use std::thread;

use larder_tests::client::{self, Arriving};
use larder_tests::process::wait_for;
use larder_tests::scripted::ANY_PATH;
use larder_tests::{Behaviour, Gate, Image, Larder, NatsServer, ScriptedRegistry, Seaweed, Service};

use super::fills::{assert_completes, assert_recovers};
use super::{LIMIT, OPEN, REPOSITORY, assert_whole, blob_at, get, open, settings, tagged};

const MIB: usize = 1 << 20;

/// A bus, a store, and two processes each of those that serve and those that fetch.
pub(super) struct Farm {
    pub(super) facades: [Service; 2],
    fetchers: Vec<Service>,
    _judges: Service,
    pub(super) registry: ScriptedRegistry,
    _larder: Larder,
    _nats: NatsServer,
    seaweed: Seaweed,
}

impl Farm {
    pub(super) fn start(facade: &str) -> Self {
        let (nats, seaweed, registry) = (NatsServer::start(), Seaweed::start(), ScriptedRegistry::start());
        let larder = Larder::new()
            .bus(&nats.url())
            .store(&seaweed.url())
            .envs(seaweed.environment())
            .env("LARDER_NATS__MONITOR_URL", &nats.monitor_url())
            .config(&settings(&registry.host(), facade, OPEN));
        Self {
            facades: [larder.serve(&["facade"]), larder.serve(&["facade"])],
            fetchers: vec![larder.serve(&["fetcher"]), larder.serve(&["fetcher"])],
            _judges: larder.serve(&["verifier", "indexer"]),
            registry,
            _larder: larder,
            _nats: nats,
            seaweed,
        }
    }

    pub(super) fn hosts(&self) -> [String; 2] {
        self.facades.each_ref().map(|facade| facade.address("listen"))
    }

    fn is_stored(&self, digest: &str) -> bool {
        let hex = digest.trim_start_matches("sha256:");
        self.seaweed.list("blobs/sha256").iter().any(|name| name == hex)
    }

    fn await_stored(&self, digest: &str) {
        let is_stored = || self.is_stored(digest).then_some(());
        wait_for("the blob in the store", LIMIT, is_stored, || format!("{:?}", self.registry.requests()));
    }

    /// Kills the fetcher that has asked upstream for a blob.
    fn kill_busy_fetcher(&mut self) {
        let asked =
            |fetcher: &Service| fetcher.metric("larder_upstream_requests_total", "kind=\"blob_get\"") > 0.5;
        let busy = self.fetchers.iter().position(asked).expect("a fetcher has asked upstream");
        self.fetchers.remove(busy).kill();
    }

    /// Has an image upstream whose one large layer is held back, once, after so many bytes.
    fn put_held(&self, bytes: usize, after_bytes: usize) -> (Image, Gate) {
        let (image, gate) = (Image::of_noise(1, bytes), Gate::new());
        self.registry.put(REPOSITORY, "1", &image);
        let hold = Behaviour::Hold { after_bytes: after_bytes as u64, gate: gate.clone() };
        self.registry.script(&blob_at(&image, 1), [hold]);
        (image, gate)
    }
}

#[test]
fn clients_of_both_facades_read_along_from_one_request() {
    let farm = Farm::start("");
    let (image, gate) = farm.put_held(16 * MIB, 8 * MIB);
    let (path, blob) = (blob_at(&image, 1), image.blob(1));
    let hosts = farm.hosts();
    let join = |at: usize| {
        let mut client = open(&hosts[at % 2], &path, &[]);
        client.read(6 * MIB).unwrap();
        client
    };
    let mut clients: Vec<Arriving> = (0..10).map(join).collect();
    assert!(!farm.is_stored(&blob.digest));
    // One leaves, and one does not read.
    drop(clients.pop());
    let idle = open(&hosts[1], &path, &[]);
    gate.open();
    for client in clients {
        assert_completes(client, blob);
    }
    farm.await_stored(&blob.digest);
    assert_completes(idle, blob);
    assert_whole(&get(&hosts[0], &path, &[]), blob);
    assert_eq!(farm.registry.count("GET", &path), 1);
}

#[test]
fn f32_herd_at_both_facades_costs_one_request_for_everything() {
    let farm = Farm::start("");
    let image = Image::of_noise(2, 300_000);
    farm.registry.put(REPOSITORY, "1", &image);
    let hosts = farm.hosts();
    thread::scope(|scope| {
        for at in 0..100 {
            let (host, image) = (&hosts[at % 2], &image);
            scope.spawn(move || {
                assert_whole(&get(host, &tagged(), &[]), &image.root);
                for position in 0..3 {
                    assert_whole(&get(host, &blob_at(image, position), &[]), image.blob(position));
                }
            });
        }
    });
    let blobs = [0, 1, 2].map(|position| blob_at(&image, position));
    for path in blobs.iter().map(String::as_str).chain(["/manifests/"]) {
        assert_eq!(farm.registry.count("GET", path), 1, "{path}");
    }
}

#[test]
fn f02_blob_whose_last_byte_is_wrong_is_complete_at_neither_facade() {
    let farm = Farm::start("");
    let image = Image::of_noise(1, 12 * MIB);
    let (path, blob) = (blob_at(&image, 1), image.blob(1));
    farm.registry.put(REPOSITORY, "1", &image);
    farm.registry.always(&path, [Behaviour::FlipByte { at: blob.bytes.len() - 1 }]);
    let hosts = farm.hosts();
    thread::scope(|scope| {
        for at in 0..6 {
            let (host, path) = (&hosts[at % 2], &path);
            scope.spawn(move || {
                if let Ok(answer) = client::get(host, path) {
                    assert_eq!(answer.status, 502, "{} bytes", answer.body.len());
                }
            });
        }
    });
    assert!(!farm.is_stored(&blob.digest));
    farm.registry.clear_scripts();
    for host in &hosts {
        assert_recovers(host, &path, blob);
    }
}

#[test]
fn f03_upstream_that_is_cut_is_resumed_unnoticed_at_both_facades() {
    let farm = Farm::start("");
    let image = Image::of_noise(1, 12 * MIB);
    let path = blob_at(&image, 1);
    farm.registry.put(REPOSITORY, "1", &image);
    farm.registry.script(&path, [Behaviour::Cut { after_bytes: 5 * MIB as u64 }]);
    let hosts = farm.hosts();
    thread::scope(|scope| {
        for host in &hosts {
            scope.spawn(|| assert_whole(&get(host, &path, &[]), image.blob(1)));
        }
    });
    assert_eq!(farm.registry.bytes_sent(&path), image.blob(1).bytes.len() as u64);
}

#[test]
fn cold_range_is_answered_by_another_process_before_the_whole_has_come() {
    let farm = Farm::start("");
    let image = Image::of_noise(1, 64 * MIB);
    let (blob, path) = (image.blob(1), blob_at(&image, 1));
    farm.registry.put(REPOSITORY, "1", &image);
    farm.registry.always(&path, [Behaviour::Drip { bytes_per_s: MIB as u64 }]);
    let [first, second] = farm.hosts();
    let near = get(&first, &path, &[("Range", "bytes=0-99999")]);
    assert!(near.status == 206 && near.body == blob.bytes[..100_000]);
    let far = get(&second, &path, &[("Range", "bytes=-102400")]);
    assert!(far.status == 206 && far.body == blob.bytes[blob.bytes.len() - 102_400..]);
    assert!(farm.registry.bytes_sent(&path) < 16 * MIB as u64);
}

#[test]
fn fetcher_that_dies_amid_a_fill_is_followed_by_the_other() {
    let mut farm = Farm::start("");
    let (image, gate) = farm.put_held(16 * MIB, 8 * MIB);
    let (path, blob) = (blob_at(&image, 1), image.blob(1));
    let hosts = farm.hosts();
    let mut clients: Vec<Arriving> = hosts.iter().map(|host| open(host, &path, &[])).collect();
    for client in &mut clients {
        client.read(6 * MIB).unwrap();
    }
    gate.await_reached(1, LIMIT);
    farm.kill_busy_fetcher();
    for client in clients {
        assert_completes(client, blob);
    }
    farm.await_stored(&blob.digest);
    for host in &hosts {
        assert_whole(&get(host, &path, &[]), blob);
    }
    assert_eq!(farm.registry.count("GET", &path), 2);
}

#[test]
fn f19_upstream_that_limits_the_rate_is_left_alone_by_every_fetcher() {
    let farm = Farm::start("fresh_s = 0\nnegative_s = 0\n");
    let image = Image::small();
    farm.registry.put(REPOSITORY, "1", &image);
    let hosts = farm.hosts();
    assert_whole(&get(&hosts[0], &tagged(), &[]), &image.root);
    farm.registry.clear_requests();
    for method in ["GET", "HEAD"] {
        farm.registry.always_method(method, ANY_PATH, [Behaviour::retry_after(429, 3600)]);
    }
    for turn in 0..20 {
        let answer = get(&hosts[turn % 2], &tagged(), &[]);
        assert_whole(&answer, &image.root);
        assert_eq!(answer.header("larder-outcome"), Some("stale"));
        assert!(answer.header("warning").is_some() && answer.header("age").is_some());
    }
    // The other fetcher may have asked before it heard.
    let asked = farm.registry.requests();
    assert!(asked.len() <= 2, "{asked:?}");
    for fetcher in &farm.fetchers {
        assert!(fetcher.metric("larder_upstream_requests_total", "") < 8.0);
    }
}

#[test]
fn tag_is_fresh_for_both_facades_and_a_push_at_one_is_seen_at_the_other() {
    let farm = Farm::start("");
    let (theirs, ours) = (Image::small(), Image::of_noise(1, 5000));
    farm.registry.put(REPOSITORY, "1", &theirs);
    let [first, second] = farm.hosts();
    for host in [&first, &second, &first] {
        assert_whole(&get(host, &tagged(), &[]), &theirs.root);
    }
    assert_eq!((farm.registry.count("HEAD", ""), farm.registry.count("GET", "")), (1, 1));
    super::push(&first, REPOSITORY, "1", &ours, &[]);
    assert_whole(&get(&first, &tagged(), &[]), &ours.root);
    let is_seen = || (get(&second, &tagged(), &[]).body == ours.root.bytes).then_some(());
    wait_for("the push at the other facade", LIMIT, is_seen, String::new);
}

#[test]
fn tag_that_is_no_longer_fresh_costs_one_head_for_each_facade_and_no_get() {
    let farm = Farm::start("fresh_s = 4\n");
    let image = Image::small();
    farm.registry.put(REPOSITORY, "1", &image);
    let hosts = farm.hosts();
    assert_whole(&get(&hosts[0], &tagged(), &[]), &image.root);
    let again =
        || (get(&hosts[0], &tagged(), &[]).header("larder-outcome") == Some("revalidated")).then_some(());
    wait_for("the tag to be looked up again", LIMIT, again, String::new);
    for turn in 0..10 {
        assert_whole(&get(&hosts[turn % 2], &tagged(), &[]), &image.root);
    }
    let heads = farm.registry.count("HEAD", "");
    assert!((2..=3).contains(&heads), "{heads}");
    assert_eq!(farm.registry.count("GET", ""), 1);
}
