//! What the registry shows, as bodies with an index each. The index of a view moves only when its
//! body changes, so nobody is woken by what concerns others; and a body is made once for all who
//! wait for it.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use bytes::Bytes;
use parking_lot::Mutex;
use sinew_coordination::registry::Service;

/// How many views are remembered. One that is forgotten has the registry's index when it is asked for
/// again, which may wake once without a change.
const VIEWS: usize = 4096;
/// How many bytes of bodies are kept for the next who asks the same.
const BODIES: usize = 32 << 20;

/// The views that somebody has asked for.
#[derive(Default)]
pub(super) struct Views {
    views: Mutex<HashMap<String, Arc<View>>>,
    /// The bytes of the bodies that are kept.
    bytes: Arc<AtomicUsize>,
}

/// One of them. Whoever waits holds it, so that it is the same for as long as he waits.
pub(super) struct View {
    shown: Mutex<Shown>,
    bytes: Arc<AtomicUsize>,
}

#[derive(Default)]
struct Shown {
    index: u64,
    fingerprint: u64,
    /// The body, and what it was made from.
    body: Option<(Bytes, Vec<Arc<Service>>)>,
}

impl Views {
    /// The view of this name.
    pub(super) fn view(&self, key: &str) -> Arc<View> {
        let mut views = self.views.lock();
        if let Some(view) = views.get(key) {
            return view.clone();
        }
        if views.len() >= VIEWS {
            views.retain(|_, view| Arc::strong_count(view) > 1);
        }
        let view = Arc::new(View {
            shown: Mutex::default(),
            bytes: self.bytes.clone(),
        });
        // As many as there are requests, at most, and those are bounded.
        views.insert(key.to_owned(), view.clone());
        view
    }

    /// How many views are remembered, and the bytes of their bodies.
    pub(super) fn size(&self) -> (usize, usize) {
        (self.views.lock().len(), self.bytes.load(Relaxed))
    }

    /// Lets bodies go when they are too many; they can be made anew.
    pub(super) fn shrink(&self) {
        if self.bytes.load(Relaxed) <= BODIES {
            return;
        }
        let views: Vec<_> = self.views.lock().values().cloned().collect();
        for view in views {
            view.keep(&mut view.shown.lock(), None);
        }
    }
}

impl View {
    /// The body that `make` makes of these services, as of `revision`, and its index.
    pub(super) fn show(
        &self,
        of: Vec<Arc<Service>>,
        revision: u64,
        make: impl FnOnce(&[Arc<Service>]) -> Vec<u8>,
    ) -> (u64, Bytes) {
        // Whoever else wants the same waits here for this body instead of making its own.
        let mut shown = self.shown.lock();
        if let Some((body, made_of)) = &shown.body
            && same(made_of, &of)
        {
            return (shown.index, body.clone());
        }
        let body = Bytes::from(make(&of));
        let mut hasher = DefaultHasher::new();
        body.hash(&mut hasher);
        let fingerprint = hasher.finish();
        if shown.index == 0 || shown.fingerprint != fingerprint {
            // Never the same index for another body.
            shown.index = revision.max(shown.index + 1);
            shown.fingerprint = fingerprint;
        }
        self.keep(&mut shown, Some((body.clone(), of)));
        (shown.index, body)
    }

    fn keep(&self, shown: &mut Shown, body: Option<(Bytes, Vec<Arc<Service>>)>) {
        if let Some((bytes, _)) = &body {
            self.bytes.fetch_add(bytes.len(), Relaxed);
        }
        if let Some((bytes, _)) = std::mem::replace(&mut shown.body, body) {
            self.bytes.fetch_sub(bytes.len(), Relaxed);
        }
    }
}

impl Drop for View {
    fn drop(&mut self) {
        if let Some((bytes, _)) = &self.shown.get_mut().body {
            self.bytes.fetch_sub(bytes.len(), Relaxed);
        }
    }
}

fn same(a: &[Arc<Service>], b: &[Arc<Service>]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| Arc::ptr_eq(a, b))
}

#[cfg(test)]
mod tests {
    use sinew_core::Name;

    use super::*;

    fn service(revision: u64) -> Arc<Service> {
        Arc::new(Service {
            id: Name::new("orders").unwrap().into(),
            revision,
            instances: Vec::new(),
            panic: false,
        })
    }

    #[test]
    fn an_index_moves_with_the_body_alone() {
        let views = Views::default();
        let view = views.view("a");
        let first = service(3);
        let show = |services: &[&Arc<Service>], revision, body: &str| {
            let of = services.iter().map(|service| (*service).clone()).collect();
            view.show(of, revision, |_| body.as_bytes().to_vec()).0
        };
        assert_eq!(show(&[&first], 3, "x"), 3);
        assert_eq!(show(&[&first], 9, "never made"), 3, "it is kept");
        assert_eq!(show(&[&service(5)], 5, "x"), 3, "the same to see");
        assert_eq!(show(&[&service(6)], 6, "y"), 6);
        assert_eq!(show(&[&service(6)], 6, "z"), 7, "another body");
        assert_eq!(views.size(), (1, 1));
        drop(view);
        for n in 0..VIEWS + 1 {
            views.view(&n.to_string());
        }
        assert!(views.size().0 <= VIEWS && views.size().1 == 0);
    }

    #[test]
    fn bodies_are_let_go() {
        let views = Views::default();
        let view = views.view("a");
        let of = vec![service(1)];
        view.show(of.clone(), 1, |_| vec![0; BODIES + 1]);
        views.shrink();
        assert_eq!(views.size(), (1, 0));
        let (index, body) = view.show(of, 4, |_| vec![0; BODIES + 1]);
        assert_eq!((index, body.len()), (1, BODIES + 1), "and made anew");
    }
}
