//! Long computing beside the async workers, which must stay free to answer.

/// Runs `body` on a thread for blocking work and waits for it. It ends by itself: dropping the
/// future does not call it off.
///
/// # Panics
/// Where `body` panics.
pub async fn off_workers<T: Send + 'static>(body: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(body).await {
        Ok(value) => value,
        Err(failure) => std::panic::resume_unwind(failure.into_panic()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_computes_on_another_thread_and_panics_where_it_was_called() {
        let here = std::thread::current().id();
        let there = off_workers(|| std::thread::current().id()).await;
        assert_ne!(here, there);
        let group = crate::TaskGroup::new(crate::Shutdown::new());
        group.spawn("task", async { off_workers(|| panic!("no such tensor")).await });
        let failure = group.join(std::time::Duration::from_secs(30)).await.unwrap_err();
        assert!(format!("{failure:#}").contains("no such tensor"), "{failure:#}");
    }
}
