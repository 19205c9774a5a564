//! Generates messages, server and client from the protocol, without `protoc`.

use std::error::Error;

const PROTOCOL: &str = "containerd/services/content/v1/content.proto";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let descriptors = protox::compile([PROTOCOL], ["proto"])?;
    // `bytes`: what is read and written is not copied between message and store. No `connect`: whoever has a connection gives it.
    tonic_prost_build::configure().bytes(".").build_transport(false).compile_fds(descriptors)?;
    Ok(())
}
