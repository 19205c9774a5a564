//! larder is a registry as the OCI distribution specification has it, whole.

use larder_tests::{Larder, NatsServer, RoundRobin, Seaweed, conformance};

/// Anybody may do anything, and there is nobody to ask for what is not here.
const OPEN: &str = "[facade]\nupstreams = []\n[access]\nanonymous = [\"pull\", \"push\", \"delete\"]\n";
/// About as many tests as the suite has, so that one that ends early is noticed.
const TESTS_MIN: usize = 900;

fn assert_conforms(host: &str) {
    let verdict = conformance::check(host);
    let count = verdict.complaints.len();
    assert!(count == 0, "{} passed, {count} not:\n{}", verdict.passed, verdict.complaints.join("\n"));
    assert!(verdict.passed >= TESTS_MIN, "only {} tests ran", verdict.passed);
}

#[test]
fn one_process_conforms() {
    let larder = Larder::new().config(OPEN);
    let service = larder.serve(&[]);
    assert_conforms(&service.address("listen"));
    larder.assert_store_is_sound();
}

#[test]
fn two_facades_of_a_farm_conform_when_each_gets_every_other_request() {
    let (nats, seaweed) = (NatsServer::start(), Seaweed::start());
    let larder =
        Larder::new().bus(&nats.url()).store(&seaweed.url()).envs(seaweed.environment()).config(OPEN);
    let _workers = larder.serve(&["fetcher", "verifier", "indexer", "pusher"]);
    let facades = [larder.serve(&["facade"]), larder.serve(&["facade"])];
    let proxy = RoundRobin::start(&facades.each_ref().map(|facade| facade.address("listen")));
    assert_conforms(proxy.host());
    let served = proxy.served();
    assert!(served[0].abs_diff(served[1]) <= 1, "{served:?}");
}
