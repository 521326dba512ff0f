//! Work that is not left half done when the one who waits for it leaves.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

/// Runs a future where it is awaited, so that calls made in it belong to the request that is handled
/// there; dropped before its end, as when a client hangs up, the rest of it runs in a task.
pub(super) struct Finish<T>(Option<Pin<Box<dyn Future<Output = T> + Send>>>)
where
    T: Send + 'static;

impl<T: Send + 'static> Finish<T> {
    pub(super) fn new(work: impl Future<Output = T> + Send + 'static) -> Self {
        Self(Some(Box::pin(work)))
    }
}

impl<T: Send + 'static> Future for Finish<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        let Some(work) = &mut self.0 else {
            return Poll::Pending;
        };
        let result = work.as_mut().poll(context);
        if result.is_ready() {
            self.0 = None;
        }
        result
    }
}

impl<T: Send + 'static> Drop for Finish<T> {
    fn drop(&mut self) {
        // After a panic there is nothing to go on with; without a runtime, nobody to do it.
        if let Some(work) = self.0.take().filter(|_| !std::thread::panicking())
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(work);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn the_rest_runs_when_nobody_waits_any_more() {
        let (go, gone) = oneshot::channel::<()>();
        let (done, end) = oneshot::channel();
        let mut work = Box::pin(Finish::new(async move {
            let _ = gone.await;
            let _ = done.send(7);
        }));
        assert!(futures_poll_once(&mut work).await.is_pending());
        drop(work);
        go.send(()).unwrap();
        assert_eq!(end.await, Ok(7));
        assert_eq!(Finish::new(async { 8 }).await, 8);
    }

    async fn futures_poll_once<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
        std::future::poll_fn(|context| Poll::Ready(Pin::new(&mut *future).poll(context))).await
    }
}
