//! Reading the log while it is written. Readers see what is durable and nothing else, and never
//! hold up the writer.

use std::sync::Arc;

use bytes::Bytes;
use sinew_core::Result;

use super::{
    Entry, Position, Record, Sequence, error,
    frame::Kind,
    header::FIRST_FRAME,
    scan::{Frame, Scanner},
    segment::{Segment, Segments},
};

/// Reads records in order. It blocks on the disk: use it on a thread that may.
#[derive(Debug)]
pub struct Reader {
    segments: Arc<Segments>,
    place: Option<Place>,
    /// The sequence number that the next entry begins with, or lies in.
    next: Sequence,
}

#[derive(Debug)]
struct Place {
    segment: Arc<Segment>,
    scanner: Scanner,
    offset: u64,
    /// The sequence number of the frame at `offset`, when it is known.
    expected: Option<Sequence>,
}

impl Reader {
    /// `from` may be the record that comes next, or a later one.
    pub(super) fn new(segments: Arc<Segments>, from: Sequence) -> Result<Self> {
        let oldest = segments.oldest();
        if from < oldest {
            return Err(error::released(from, oldest));
        }
        Ok(Self {
            segments,
            place: None,
            next: from,
        })
    }

    /// The sequence number that [`Reader::next`] goes on with.
    pub fn position(&self) -> Sequence {
        self.next
    }

    /// The next entry; nothing at the durable end, where it may be asked again later.
    /// `log.corrupt` (DataLoss) when it is damaged, `log.released` (OutOfRange) when it was released
    /// meanwhile.
    #[expect(clippy::should_implement_trait, reason = "nothing now is not the end")]
    pub fn next(&mut self) -> Result<Option<Entry>> {
        loop {
            let end = self.segments.end();
            if self.next >= end.next {
                return Ok(None);
            }
            let mut place = match self.place.take() {
                Some(place) => place,
                None => self.find_place()?,
            };
            // In this order: a segment that is not the last any more is wholly written.
            place.scanner.set_limit(self.segments.limit(&place.segment));
            let Some(frame) = self.frame(&mut place)? else {
                // It goes on in the next segment.
                self.place = Some(self.next_segment(&place)?);
                continue;
            };
            place.offset = frame.end();
            place.expected = Some(frame.next());
            place.segment.mark(frame.sequence, frame.offset);
            let number = place.segment.number;
            self.place = Some(place);
            if frame.next() <= self.next {
                continue;
            }
            self.next = frame.next();
            return Ok(Some(entry(frame, number)));
        }
    }

    fn find_place(&self) -> Result<Place> {
        let segment = self
            .segments
            .holding(self.next)
            .ok_or_else(|| error::released(self.next, self.segments.oldest()))?;
        let offset = segment.offset_before(self.next);
        let expected = segment
            .first
            .get()
            .copied()
            .filter(|_| offset == FIRST_FRAME);
        self.place_in(segment, offset, expected)
    }

    fn place_in(
        &self,
        segment: Arc<Segment>,
        offset: u64,
        expected: Option<Sequence>,
    ) -> Result<Place> {
        let file = self.segments.file(&segment)?;
        let limit = self.segments.limit(&segment);
        let scanner = Scanner::new(file, segment.identity, limit);
        Ok(Place {
            segment,
            scanner,
            offset,
            expected,
        })
    }

    /// The frame at the place, if the segment has not ended there.
    fn frame(&self, place: &mut Place) -> Result<Option<Frame>> {
        let path = &place.segment.path;
        let found = place
            .scanner
            .frame(place.offset)
            .map_err(|cause| error::io("reading", path, cause))?;
        let fits = |frame: &Frame| {
            place
                .expected
                .is_none_or(|expected| frame.sequence == expected)
        };
        Ok(found.filter(fits))
    }

    /// A segment ends where the next one goes on with the record that is expected; when it does
    /// not, the record was here.
    fn next_segment(&self, place: &Place) -> Result<Place> {
        let expected = place.expected.unwrap_or(self.next);
        let following = self.segments.numbered(place.segment.number + 1);
        match following {
            Some(following) if following.first.get() == Some(&expected) => {
                self.place_in(following, FIRST_FRAME, Some(expected))
            }
            None if self.segments.oldest() > expected => {
                Err(error::released(expected, self.segments.oldest()))
            }
            _ => {
                let what = format!("record {expected} is broken");
                Err(error::corrupt(&place.segment.path, place.offset, &what))
            }
        }
    }
}

/// The record at a position that an append answered.
pub(super) fn read(segments: &Segments, position: Position) -> Result<Record> {
    let Position {
        segment: number,
        offset,
    } = position;
    let segment = segments.numbered(number);
    let end = segments.end();
    let beyond = number > end.segment || (number == end.segment && offset >= end.offset);
    let segment = match segment {
        _ if beyond => return Err(error::unknown(&format!("a record at {position}"))),
        Some(segment) => segment,
        None => return Err(error::released(0, segments.oldest())),
    };
    let file = segments.file(&segment)?;
    let mut scanner = Scanner::for_one(file, segment.identity, segments.limit(&segment));
    let frame = scanner
        .frame(offset)
        .map_err(|cause| error::io("reading", &segment.path, cause))?;
    match frame {
        Some(Frame {
            sequence,
            kind: Kind::Record,
            payload,
            ..
        }) => Ok(Record {
            sequence,
            position,
            payload: Bytes::copy_from_slice(&payload),
        }),
        _ => Err(error::corrupt(
            &segment.path,
            offset,
            "there is no whole record",
        )),
    }
}

fn entry(frame: Frame, segment: u64) -> Entry {
    match frame.kind {
        Kind::Gap => Entry::Gap {
            from: frame.sequence,
            until: frame.next(),
        },
        Kind::Record => Entry::Record(Record {
            sequence: frame.sequence,
            position: Position {
                segment,
                offset: frame.offset,
            },
            payload: frame.payload,
        }),
    }
}
