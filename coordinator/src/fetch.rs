//! Files from a Hugging Face hub: where it is, what lies in the cache, downloads that go on where
//! they broke off. Which files a model or a data set needs is said in the parts that name them.

mod cache;
mod client;
mod data_get;
mod digest;
mod download;
mod error;
mod model_get;
mod parquet_rows;
mod place;
mod progress;

pub use data_get::data_get;
pub use model_get::model_get;
