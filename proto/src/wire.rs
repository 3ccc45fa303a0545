//! The generated messages. Only this crate and files that implement a generated service name them.

#[allow(clippy::all, clippy::pedantic, unreachable_pub, reason = "generated code")]
mod generated {
    pub mod tandem {
        pub mod rollout {
            pub mod v1 {
                tonic::include_proto!("tandem.rollout.v1");
            }
        }
        pub mod learner {
            pub mod v1 {
                tonic::include_proto!("tandem.learner.v1");
            }
        }
        pub mod weak {
            pub mod v1 {
                tonic::include_proto!("tandem.weak.v1");
            }
        }
        pub mod coordinator {
            pub mod v1 {
                tonic::include_proto!("tandem.coordinator.v1");
            }
        }
        pub mod journal {
            pub mod v1 {
                tonic::include_proto!("tandem.journal.v1");
            }
        }
    }
}

pub use generated::tandem::coordinator::v1 as coordinator;
pub use generated::tandem::journal::v1 as journal;
pub use generated::tandem::learner::v1 as learner;
pub use generated::tandem::rollout::v1 as rollout;
pub use generated::tandem::weak::v1 as weak;
