//! Compiles the protocol's `.proto` files without a protoc on the machine. Bodies and every other `bytes` field become
//! `bytes::Bytes`, so that neither the generator nor the floor copies them.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // Asked for when this runs: a target folder that moved along with its tree must not read the old place.
    let root = std::path::Path::new(&std::env::var("CARGO_MANIFEST_DIR")?).join("../proto");
    println!("cargo:rerun-if-changed={}", root.display());
    let files = protox::compile(["apache/rocketmq/v2/service.proto"], [&root])?;
    tonic_prost_build::configure()
        .build_client(false)
        .bytes(".")
        // What the floor streams is encoded once, at its start: see `floor.rs`.
        .extern_path(".apache.rocketmq.v2.ReceiveMessageResponse", "crate::floor::Frame")
        .compile_fds(files)?;
    Ok(())
}
