//! The wire: messages, clients and servers of `sweep.v1`, generated from `proto/sweep/v1/sweep.proto`.
//! The comments there are the protocol's manual. [`dial`] is how a coordinator is reached.

pub mod dial;

/// Package `sweep.v1`.
#[allow(missing_debug_implementations, unreachable_pub, clippy::all)]
pub mod v1 {
    tonic::include_proto!("sweep.v1");
}

/// The compiled descriptors, for gRPC reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/sweep.v1.bin"));
