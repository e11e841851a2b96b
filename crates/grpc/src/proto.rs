//! Types, clients and servers generated from the `.proto` files of the workspace.
#![allow(missing_docs, clippy::all, clippy::pedantic, clippy::unwrap_used)]

/// Packages under `apache`.
pub mod apache {
    /// Packages under `apache.rocketmq`.
    pub mod rocketmq {
        /// Package `apache.rocketmq.v1`.
        pub mod v1 {
            tonic::include_proto!("apache.rocketmq.v1");
        }
        /// Package `apache.rocketmq.v2`.
        pub mod v2 {
            tonic::include_proto!("apache.rocketmq.v2");
        }
    }
}

/// Packages under `google`.
pub mod google {
    /// Package `google.rpc`.
    pub mod rpc {
        tonic::include_proto!("google.rpc");
    }
}

/// Packages under `martlet`.
pub mod martlet {
    /// Package `martlet.v1`.
    pub mod v1 {
        tonic::include_proto!("martlet.v1");
    }
}

pub use apache::rocketmq::v1 as rocketmq_v1;
pub use apache::rocketmq::v2;
pub use martlet::v1;
