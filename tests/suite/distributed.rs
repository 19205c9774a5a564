//! The main job on a farm: NATS between services, S3 behind them, any of them dying.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use larder_bus::{Config, Policy, Queue};
use larder_tests::process::{Process, wait_for};
use larder_tests::scripted::blob_path;
use larder_tests::{
    Behaviour, Format, Gate, Image, Larder, Layer, NatsServer, ScriptedRegistry, Seaweed, Service,
};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(90);
const ROLES: [&str; 5] = ["facade", "fetcher", "verifier", "indexer", "pusher"];

/// A bus, a store and two processes of each role.
struct Farm {
    /// By role, in the order of [`ROLES`]; dropped before what they talk to.
    services: Vec<[Option<Service>; 2]>,
    larder: Larder,
    nats: NatsServer,
    seaweed: Seaweed,
}

impl Farm {
    /// A farm with two processes of each of `roles`.
    fn start(roles: &[&str]) -> Self {
        let (nats, seaweed) = (NatsServer::start(), Seaweed::start());
        let larder = Larder::new()
            .bus(&nats.url())
            .store(&seaweed.url())
            .envs(seaweed.environment())
            .env("LARDER_NATS__MONITOR_URL", &nats.monitor_url())
            .limit(LIMIT);
        let serve = |role: &&str| {
            let pair = || roles.contains(role).then(|| larder.serve(&[role]));
            [pair(), pair()]
        };
        let services = ROLES.iter().map(serve).collect();
        Self { services, larder, nats, seaweed }
    }

    fn pair(&mut self, role: &str) -> &mut [Option<Service>; 2] {
        let place = ROLES.iter().position(|known| *known == role).unwrap();
        &mut self.services[place]
    }

    fn service(&mut self, role: &str, place: usize) -> &mut Service {
        self.pair(role)[place].as_mut().unwrap()
    }

    fn kill(&mut self, role: &str, place: usize) {
        self.pair(role)[place].take().unwrap().kill();
    }

    fn revive(&mut self, role: &str, place: usize) {
        let service = self.larder.serve(&[role]);
        self.pair(role)[place] = Some(service);
    }

    /// The sum over both processes of a role.
    fn metric(&mut self, role: &str, name: &str, labels: &str) -> f64 {
        self.pair(role).iter().flatten().map(|service| service.metric(name, labels)).sum()
    }

    fn stored(&self, digest: &str) -> bool {
        let (algorithm, hex) = digest.split_once(':').unwrap();
        self.seaweed.list(&format!("blobs/{algorithm}")).iter().any(|name| name == hex)
    }

    fn await_stored(&self, digests: &[&str]) {
        let all = || digests.iter().all(|digest| self.stored(digest)).then_some(());
        wait_for("blobs in the store", LIMIT, all, || format!("{:?}", self.seaweed.list("blobs/sha256")));
    }

    /// How many messages of `queue` are with workers.
    fn in_work(&self, queue: &str) -> u64 {
        let streams = self.nats.monitor("/jsz?consumers=true");
        let details = streams["account_details"].as_array().into_iter().flatten();
        let consumers = details
            .flat_map(|account| account["stream_detail"].as_array().into_iter().flatten())
            .flat_map(|stream| stream["consumer_detail"].as_array().into_iter().flatten());
        let of_queue = consumers.filter(|consumer| consumer["name"] == queue);
        of_queue.filter_map(|consumer| consumer["num_ack_pending"].as_u64()).sum()
    }

    /// Everything that has a name holds, to the last byte.
    fn assert_sound(&self, references: &[&str]) {
        let verdict = self.larder.run(&["--json", "verify", "--all"]).expect_code(0);
        let names: BTreeSet<String> =
            verdict.json_lines().iter().map(|audit| audit["name"].as_str().unwrap().to_owned()).collect();
        assert_eq!(names, references.iter().map(|name| (*name).to_owned()).collect());
    }
}

fn image(seed: u64) -> Image {
    Image::build("linux/amd64")
        .layer(Layer::random(60_000, seed))
        .layer(Layer::random(50_000, seed + 1))
        .layer(Layer::random(200_000, seed + 2))
        .finish()
}

/// A registry whose images wait at the gate in the middle of their last layer.
struct Upstream {
    registry: ScriptedRegistry,
}

impl Upstream {
    fn start() -> Self {
        Self { registry: ScriptedRegistry::start() }
    }

    /// Holds back the last layer of `image`, which becomes `team/NAME:1`; returns the reference.
    fn put_held(&self, name: &str, image: &Image, gate: &Gate) -> String {
        let repository = format!("team/{name}");
        self.registry.put(&repository, "1", image);
        let hold = Behaviour::Hold { after_bytes: 100_000, gate: gate.clone() };
        self.registry.always(&blob_path(&repository, &image.blob(3).digest), [hold]);
        self.registry.reference(&format!("{repository}:1"))
    }

    fn gets(&self, digest: &str) -> usize {
        self.registry.count("GET", digest)
    }
}

fn begin(farm: &Farm, reference: &str) -> Process {
    farm.larder.spawn(&["--json", "pull", "--platform", "linux/amd64", reference])
}

fn finish(pull: &mut Process) -> Value {
    assert_eq!(pull.wait(LIMIT).code(), Some(0), "{}", pull.tail());
    let last = pull.stdout().lines().last().unwrap().to_owned();
    serde_json::from_str(&last).unwrap()
}

/// Pulls a held image, lets `disturb` happen while its last layer is under way and the rest is stored, and expects that the pull
/// completes and that nothing that was stored is fetched again. Returns the reference, and how often the last layer was asked for.
fn survives(
    farm: &mut Farm,
    upstream: &Upstream,
    name: &str,
    seed: u64,
    disturb: impl FnOnce(&mut Farm),
) -> (String, usize) {
    let (image, gate) = (image(seed), Gate::new());
    let reference = upstream.put_held(name, &image, &gate);
    let mut pull = begin(farm, &reference);
    gate.await_reached(1, LIMIT);
    let stored = [0, 1, 2].map(|place| image.blob(place).digest.as_str());
    farm.await_stored(&stored);
    disturb(farm);
    gate.open();
    assert_eq!(finish(&mut pull)["root"]["digest"], image.root.digest);
    for digest in stored {
        assert_eq!(upstream.gets(digest), 1, "{name}: {digest} was stored already");
    }
    (reference, upstream.gets(&image.blob(3).digest))
}

#[test]
fn twenty_clients_cost_one_request_per_blob_and_everything_is_counted() {
    let mut farm = Farm::start(&ROLES);
    let (image, gate, upstream) = (image(1), Gate::new(), Upstream::start());
    let reference = upstream.put_held("app", &image, &gate);
    let connections = |farm: &Farm| farm.nats.monitor("/varz")["connections"].as_u64().unwrap();
    let before = connections(&farm);
    let mut pulls: Vec<Process> = (0..20).map(|_| begin(&farm, &reference)).collect();
    let all_there = || (connections(&farm) == before + 20).then_some(());
    wait_for("twenty clients", LIMIT, all_there, || connections(&farm).to_string());
    gate.await_reached(1, LIMIT);
    gate.open();
    for pull in &mut pulls {
        assert_eq!(finish(pull)["root"]["digest"], image.root.digest);
    }
    for blob in &image.blobs {
        assert_eq!(upstream.gets(&blob.digest), 1, "{}", blob.digest);
    }
    farm.assert_sound(&[&reference]);
    assert_eq!(farm.larder.ok(&["--json", "jobs"]), "", "nothing was given up");

    let fetched: usize = image.blobs.iter().map(|blob| blob.bytes.len()).sum();
    let fetched = f64::from(u32::try_from(fetched).unwrap());
    let counts = [
        ("fetcher", "larder_jobs_total", "fact=\"BlobWanted\",outcome=\"done\"", 4.0),
        ("fetcher", "larder_blobs_total", "outcome=\"miss\"", 4.0),
        ("fetcher", "larder_blobs_total", "outcome=\"failed\"", 0.0),
        ("fetcher", "larder_bytes_total", "direction=\"store_in\"", fetched),
        ("fetcher", "larder_upstream_requests_total", "kind=\"blob_get\"", 4.0),
        ("fetcher", "larder_upstream_requests_total", "kind=\"retry\"", 0.0),
        ("fetcher", "larder_stage_seconds_count", "stage=\"BlobWanted\"", 4.0),
        ("facade", "larder_pulls_total", "outcome=\"hit\"", 0.0),
    ];
    for (role, name, labels, expected) in counts {
        let counted = farm.metric(role, name, labels);
        assert!((counted - expected).abs() < 0.5, "{role} {name}{{{labels}}} is {counted}, not {expected}");
    }
    for (role, name, labels) in [
        ("fetcher", "larder_jobs_total", "fact=\"ImageWanted\",outcome=\"done\""),
        ("fetcher", "larder_upstream_requests_total", "kind=\"manifest_get\""),
        ("verifier", "larder_jobs_total", "fact=\"ImageStored\",outcome=\"done\""),
        ("verifier", "larder_jobs_total", "fact=\"AuditWanted\",outcome=\"done\""),
        ("verifier", "larder_stage_seconds_count", "stage=\"ImageStored\""),
        ("verifier", "larder_bytes_total", "direction=\"store_out\""),
        ("indexer", "larder_jobs_total", "fact=\"ImageVerified\",outcome=\"done\""),
        ("indexer", "larder_stage_seconds_sum", "stage=\"ImageVerified\""),
    ] {
        assert!(farm.metric(role, name, labels) > 0.0, "{role} does not count {name}{{{labels}}}");
    }
    let received = farm.metric("fetcher", "larder_bytes_total", "direction=\"upstream_in\"");
    assert!(received >= fetched, "{received} of {fetched} bytes");
    for role in ROLES {
        for target in ["/healthz", "/readyz"] {
            assert_eq!(farm.service(role, 0).admin(target).status, 200);
        }
        for place in 0..2 {
            let said = farm.service(role, place).process().stderr();
            assert!(!said.contains("WARN") && !said.contains("ERROR"), "{role}: {said}");
        }
    }
}

#[test]
fn any_service_and_any_client_may_die_in_the_middle_of_a_pull() {
    let mut farm = Farm::start(&ROLES);
    let upstream = Upstream::start();
    let mut references = Vec::new();
    for (round, role) in ROLES.iter().enumerate() {
        for place in 0..2 {
            let seed = 100 + 20 * round as u64 + 10 * place as u64;
            let name = format!("{role}{place}");
            let (reference, gets) =
                survives(&mut farm, &upstream, &name, seed, |farm| farm.kill(role, place));
            assert!(gets <= 2, "{name}: once more for the one that died, not {gets} times");
            references.push(reference);
            farm.revive(role, place);
        }
    }
    let names: Vec<&str> = references.iter().map(String::as_str).collect();
    farm.assert_sound(&names);

    // The client dies, and its pull goes on without it.
    let (image, gate) = (image(300), Gate::new());
    let reference = upstream.put_held("client", &image, &gate);
    let mut pull = begin(&farm, &reference);
    gate.await_reached(1, LIMIT);
    pull.kill();
    gate.open();
    let named = || farm.larder.ok(&["ls"]).contains(&reference).then_some(());
    wait_for("the name of the image nobody waits for", LIMIT, named, String::new);
    assert_eq!(finish(&mut begin(&farm, &reference))["outcome"], "already_present");
    for blob in &image.blobs {
        assert_eq!(upstream.gets(&blob.digest), 1, "{}", blob.digest);
    }
}

#[test]
fn work_that_a_dead_verifier_or_indexer_held_goes_to_the_other() {
    let mut farm = Farm::start(&["fetcher", "verifier", "indexer"]);
    let registry = ScriptedRegistry::start();
    for (seed, role, queue) in [(400, "verifier", "ImageStored"), (420, "indexer", "ImageVerified")] {
        for place in 0..2 {
            farm.service(role, place).process().pause();
        }
        // The server deals out in turn: each of the two holds one and does not move.
        let begin = |number: u64| {
            registry.put("team/app", &format!("{role}{number}"), &image(seed + 10 * number));
            begin(&farm, &registry.reference(&format!("team/app:{role}{number}")))
        };
        let mut pulls = [begin(0), begin(1)];
        let held = || (farm.in_work(queue) == 2).then_some(());
        wait_for("jobs in the hands of those that do not move", LIMIT, held, String::new);
        farm.kill(role, 0);
        farm.service(role, 1).process().resume();
        for pull in &mut pulls {
            finish(pull);
        }
        farm.revive(role, 0);
    }
    let paths: BTreeSet<String> =
        registry.requests().into_iter().map(|exchange| exchange.request.path).collect();
    for path in paths {
        // Clients ask again while they wait: each of the two fetchers may have to find out once what a tag points to.
        let limit = if path.contains("/manifests/") { 2 } else { 1 };
        assert!(registry.count("GET", &path) <= limit, "{path}: {}", registry.count("GET", &path));
    }
}

#[test]
fn nats_may_be_killed_and_may_lose_everything_in_the_middle_of_a_pull() {
    let mut farm = Farm::start(&ROLES);
    let upstream = Upstream::start();
    let (killed, gets) = survives(&mut farm, &upstream, "killed", 500, |farm| farm.nats.restart());
    assert!(gets <= 2, "{gets} requests for what was under way");
    let (wiped, gets) = survives(&mut farm, &upstream, "wiped", 510, |farm| farm.nats.restart_empty());
    assert!(gets <= 2, "{gets} requests for what was under way");
    farm.assert_sound(&[&killed, &wiped]);
    farm.nats.restart_empty();
    let (image, gate) = (image(520), Gate::new());
    gate.open();
    let after = upstream.put_held("after", &image, &gate);
    finish(&mut begin(&farm, &after));
    farm.assert_sound(&[&killed, &wiped, &after]);
}

#[test]
fn s3_may_be_killed_in_the_middle_of_a_pull() {
    let mut farm = Farm::start(&["fetcher", "verifier", "indexer"]);
    let upstream = Upstream::start();
    // Once more for each try that the store refuses while it comes up.
    let (reference, gets) = survives(&mut farm, &upstream, "app", 600, |farm| farm.seaweed.restart());
    assert!(gets <= 8, "{gets} requests for what was under way");
    farm.assert_sound(&[&reference]);
}

#[test]
fn every_command_works_on_a_farm() {
    let farm = Farm::start(&["fetcher", "verifier", "indexer"]);
    let (amd64, arm64) = (image(700), Image::build("linux/arm64").layer(Layer::random(9_000, 9)).finish());
    let index = Image::index(Format::Oci).image(&amd64).attestation(&amd64).image(&arm64).finish();
    let registry = ScriptedRegistry::serving("team/app", "1", &index);
    let reference = registry.reference("team/app:1");
    let larder = &farm.larder;
    let pull = |more: &[&str]| {
        let run = larder.run(&[&["--json", "pull", &reference], more].concat()).expect_code(0);
        run.json_lines().last().unwrap().clone()
    };
    let first = larder.run(&["--json", "pull", "--platform", "linux/amd64", &reference]).expect_code(0);
    let lines = first.json_lines();
    for blob in &amd64.blobs {
        let of = |line: &&Value| line["event"] == "progress" && line["digest"] == blob.digest.as_str();
        let last = lines.iter().rfind(of).expect("progress is told for each blob");
        assert_eq!((&last["received_bytes"], &last["stored"]), (&blob.bytes.len().into(), &true.into()));
    }
    assert_eq!(first.stderr, "", "nothing is drawn where there is no terminal");
    registry.clear_requests();
    assert_eq!(pull(&["--platform", "linux/amd64"])["outcome"], "already_present");
    assert_eq!(registry.requests().len(), 0);
    pull(&["--platform", "linux/amd64", "--always"]);
    assert_eq!((registry.requests().len(), registry.count("HEAD", "")), (1, 1));
    assert_eq!(pull(&["--platform", "all"])["fetched_blobs"], 3);
    let quiet = larder.run(&["--quiet", "pull", "--platform", "all", &reference]).expect_code(0);
    assert_eq!(quiet.stderr, "");

    assert!(larder.ok(&["ls"]).starts_with(&reference));
    assert_eq!(larder.run(&["--json", "inspect", &reference]).json()["sparse"], false);
    assert_eq!(larder.ok(&["cat", &index.root.digest]).as_bytes(), index.root.bytes);
    let out = tempfile::tempdir().unwrap();
    let (tar, layout) = (out.path().join("x.tar"), out.path().join("layout"));
    larder.ok(&["export", &reference, "-o", tar.to_str().unwrap()]);
    larder.ok(&["export", "--format", "layout", &reference, "-o", layout.to_str().unwrap()]);
    let mut skopeo = larder_tests::tools::command("skopeo");
    skopeo.args(["inspect", "--raw", &format!("oci-archive:{}:{reference}", tar.display())]);
    assert_eq!(larder_tests::tools::run(skopeo).as_bytes(), index.root.bytes);
    assert!(layout.join("blobs").join(index.root.digest.replace(':', "/")).is_file());
    larder.ok(&["verify", &reference]);
    larder.ok(&["rm", &reference]);
    let _ = larder.run(&["inspect", &reference]).expect_code(3);
    assert_eq!(larder.run(&["--json", "history", &reference]).json_lines().len(), 2);
    let refused = larder.run(&["pull", "--platform", "linux/riscv64", &reference]).expect_code(3);
    assert!(refused.stderr.contains("no manifest for linux/riscv64"), "{}", refused.stderr);
    let _ = larder.run(&["pull", &registry.reference("team/none:1")]).expect_code(3);
}

#[test]
fn client_is_told_when_nobody_does_the_work() {
    let mut farm = Farm::start(&["verifier", "indexer"]);
    let registry = ScriptedRegistry::serving("team/app", "1", &image(800));
    let mut pull = begin(&farm, &registry.reference("team/app:1"));
    let warned = || pull.stderr().contains("nobody takes the work yet").then_some(());
    wait_for("the warning", LIMIT, warned, || pull.tail());
    assert!(pull.stderr().contains("ImageWanted"), "{}", pull.stderr());
    farm.revive("fetcher", 0);
    finish(&mut pull);
}

#[test]
fn lazily_synced_nats_is_warned_of_and_a_synced_one_is_not() {
    for (server, warns) in [(NatsServer::start(), false), (NatsServer::start_unsynced(), true)] {
        let larder = Larder::new().bus(&server.url()).env("LARDER_NATS__MONITOR_URL", &server.monitor_url());
        let mut service = larder.serve(&["indexer"]);
        let said = service.process().stderr();
        assert_eq!(said.contains("does not sync always"), warns, "{said}");
        assert_eq!(said.contains("WARN"), warns, "{said}");
        assert!(service.stop(Duration::from_secs(10)).success());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn job_that_nobody_can_read_ends_among_the_dead() {
    let server = NatsServer::start();
    let larder = Larder::new().bus(&server.url());
    let services = [larder.serve(&["fetcher"]), larder.serve(&["verifier", "indexer"])];
    let bus = larder_bus::open(&server.url(), &Config::default()).await.unwrap();
    let policy = Policy { ack_wait_ms: 5_000, attempts_max: 8, depth_max: 100_000 };
    let queue = Queue::new("ImageWanted", policy).unwrap();
    bus.say(&queue, &"poison".parse().unwrap(), Bytes::from_static(b"{\"v\":1}")).await.unwrap();
    let dead = || {
        let jobs = larder.run(&["--json", "jobs"]).expect_code(0);
        jobs.json_lines().into_iter().next()
    };
    let dead = wait_for("the dead letter", LIMIT, dead, String::new);
    assert_eq!(
        (&dead["event"], &dead["fact"], &dead["id"]),
        (&"dead".into(), &"ImageWanted".into(), &"poison".into())
    );
    let counted = services[0].metric("larder_jobs_total", "fact=\"ImageWanted\",outcome=\"unreadable\"");
    assert!((counted - 1.0).abs() < 0.5, "{counted}");
    assert!(larder.ok(&["jobs"]).contains("poison"));
    // The queue goes on.
    let registry = ScriptedRegistry::serving("team/app", "1", &Image::small());
    larder.ok(&["pull", "--platform", "linux/amd64", &registry.reference("team/app:1")]);
}
