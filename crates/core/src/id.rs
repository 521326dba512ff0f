use uuid::Uuid;

/// A new id that nobody else makes: a UUID version 7 (RFC 9562), so that ids made later sort later
/// to the millisecond, and, within one process, strictly.
pub fn new_id() -> Uuid {
    Uuid::now_v7()
}

#[cfg(test)]
mod tests {
    #[test]
    fn ids_of_one_process_strictly_increase() {
        let ids: Vec<_> = (0..10_000).map(|_| super::new_id()).collect();
        assert!(ids.windows(2).all(|pair| pair[0] < pair[1]));
    }
}
