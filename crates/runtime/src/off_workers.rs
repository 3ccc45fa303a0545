//! Long computing beside the async workers, which must stay free to answer.

use tokio::runtime::{Handle, RuntimeFlavor};

/// Runs `body` on a thread for blocking work and waits for it. It ends by itself: dropping the
/// future does not call it off. On a runtime without workers, which only tests have, it runs in
/// place: what happens there has an order.
///
/// # Panics
/// Where `body` panics.
pub async fn off_workers<T: Send + 'static>(body: impl FnOnce() -> T + Send + 'static) -> T {
    if Handle::current().runtime_flavor() == RuntimeFlavor::CurrentThread {
        return body();
    }
    match tokio::task::spawn_blocking(body).await {
        Ok(value) => value,
        Err(failure) => std::panic::resume_unwind(failure.into_panic()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn it_computes_on_another_thread_and_panics_where_it_was_called() {
        let here = std::thread::current().id();
        let there = off_workers(|| std::thread::current().id()).await;
        assert_ne!(here, there);
        let group = crate::TaskGroup::new(crate::Shutdown::new());
        group.spawn("task", async { off_workers(|| panic!("no such tensor")).await });
        let failure = group.join(std::time::Duration::from_secs(30)).await.unwrap_err();
        assert!(format!("{failure:#}").contains("no such tensor"), "{failure:#}");
    }

    #[tokio::test]
    async fn without_workers_it_computes_in_place() {
        let here = std::thread::current().id();
        assert_eq!(off_workers(|| std::thread::current().id()).await, here);
    }
}
