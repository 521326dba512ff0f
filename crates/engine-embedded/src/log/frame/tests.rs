use proptest::{collection::vec, prelude::*};

use super::*;

const LOG: [u8; 16] = *b"a log's identity";

fn frame(identity: Identity, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode(&mut bytes, identity, 7, 2, Kind::Record, payload).unwrap();
    bytes
}

fn decode(bytes: &[u8], identity: Identity) -> Option<(Head, &[u8])> {
    let head = head(bytes)?;
    is_whole(&head, identity, bytes).then(|| (head, &bytes[HEADER..HEADER + head.length]))
}

proptest! {
    #[test]
    fn arbitrary_bytes_are_never_a_record(bytes in vec(any::<u8>(), 0..256)) {
        prop_assert_eq!(decode(&bytes, Identity::new(LOG, 1)), None);
    }

    /// As above, but past the filters for the fixed bytes, so that the checksum has to decide.
    #[test]
    fn a_plausible_header_is_not_enough(mut bytes in vec(any::<u8>(), 64..256), length in 0_u8..40) {
        bytes[4..8].copy_from_slice(&[length, 0, 0, 0]);
        bytes[16..24].copy_from_slice(&[0, 0, 0, 0, 1, 0, 0, 0]);
        prop_assert_eq!(decode(&bytes, Identity::new(LOG, 1)), None);
    }

    #[test]
    fn a_frame_comes_back(payload in vec(any::<u8>(), 0..2000), rest in vec(any::<u8>(), 0..40)) {
        let identity = Identity::new(LOG, 3);
        let mut bytes = frame(identity, &payload);
        prop_assert_eq!(bytes.len(), size(payload.len()));
        prop_assert_eq!(bytes.len() % ALIGNMENT, 0);
        bytes.extend(rest);
        let (head, found) = decode(&bytes, identity).unwrap();
        prop_assert_eq!((head.sequence, head.batch, head.kind), (7, 5, Kind::Record));
        prop_assert_eq!(found, &payload[..]);
    }

    #[test]
    fn a_changed_byte_is_noticed(
        payload in vec(any::<u8>(), 0..200),
        at in any::<prop::sample::Index>(),
        change in 1_u8..,
    ) {
        let identity = Identity::new(LOG, 3);
        let mut bytes = frame(identity, &payload);
        let at = at.index(HEADER + payload.len());
        bytes[at] ^= change;
        prop_assert_eq!(decode(&bytes, identity), None);
    }

    #[test]
    fn a_cut_frame_is_no_frame(payload in vec(any::<u8>(), 0..200), at in any::<prop::sample::Index>()) {
        let identity = Identity::new(LOG, 3);
        let bytes = frame(identity, &payload);
        let at = at.index(HEADER + payload.len());
        prop_assert_eq!(decode(&bytes[..at], identity), None);
        // Nor one whose end was never written.
        let mut torn = bytes[..at].to_vec();
        torn.resize(bytes.len(), 0);
        prop_assert!(torn == bytes || decode(&torn, identity).is_none());
    }

    #[test]
    fn a_frame_of_another_segment_or_log_is_none_of_ours(
        payload in vec(any::<u8>(), 0..200),
        other in any::<u64>(),
    ) {
        let bytes = frame(Identity::new(LOG, 3), &payload);
        prop_assume!(other != 3);
        prop_assert_eq!(decode(&bytes, Identity::new(LOG, other)), None);
        prop_assert_eq!(decode(&bytes, Identity::new([9; 16], 3)), None);
    }
}

#[test]
fn zeros_are_no_record() {
    for segment in 0..1000 {
        assert_eq!(decode(&[0; 64], Identity::new(LOG, segment)), None);
    }
}
