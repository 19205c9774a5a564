//! The client against a scripted registry.

mod auth;
mod blob;
mod egress;
mod listing;
mod manifest;
mod push;
mod rest;

#[test]
fn futures_can_be_spawned() {
    fn check<T: Send>(_: T) {}
    let client = crate::scripted::client();
    let at: larder_oci::Reference = "r.example/a:1".parse().unwrap();
    let digest = larder_oci::Digest::of(b"");
    let blob = larder_oci::Descriptor::new("", digest.clone(), 0);
    check(client.manifest(&at));
    check(client.head_manifest(&at));
    check(client.head_blob(&at, &digest));
    check(client.tags(&at));
    check(client.referrers(&at, &digest));
    check(async { client.blob(&at, &digest, None, 0).await?.next().await });
    check(client.push_blob(&at, &blob, |_| Box::pin(async { Err(std::io::ErrorKind::Other.into()) })));
}
