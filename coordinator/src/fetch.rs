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

use std::time::Duration;

use client::Client;
use place::Place;

/// The hub's address, and whether it answers at all.
pub(crate) fn hub_answers(limit: Duration) -> (String, Result<(), String>) {
    let place = match Place::new(|name| std::env::var(name).ok()) {
        Ok(place) => place,
        Err(error) => return ("HF_ENDPOINT".to_owned(), Err(error.to_string())),
    };
    let endpoint = place.endpoint.clone();
    let answered = Client::new(place, limit).and_then(|client| client.greet());
    (endpoint, answered.map_err(|error| error.to_string()))
}
