//! Reading: a whole object in one request, checked on the way; a part of it in two.

use futures_util::{StreamExt, stream};
use http::Method;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use sinew_core::Result;
use sinew_engine::blob::{Body, Download, Key, Range, damaged, unknown};
use tokio::time::timeout;

use super::{
    ENGINE, S3Blob, TRIES,
    client::{Ask, Refusal},
    object,
};
use crate::fault;

impl S3Blob {
    pub(super) async fn download(&self, key: &Key, range: Option<Range>) -> Result<Download> {
        match range {
            None => self.whole(key).await,
            Some(range) => self.part_of(key, range).await,
        }
    }

    async fn whole(&self, key: &Key) -> Result<Download> {
        let name = self.named(key);
        let ask = Ask::new(Method::GET, Some(&name)).header("x-amz-checksum-mode", "ENABLED");
        let answer = self
            .client
            .ask(&ask)
            .await
            .map_err(|refusal| gone(key, refusal))?;
        let object = object(key, &answer.headers)?;
        let body = self.stream(key, answer.body, object.size, Some(object.checksum));
        Ok(Download {
            range: 0..object.size,
            object,
            body,
        })
    }

    /// What the object is, then the bytes of just that one.
    async fn part_of(&self, key: &Key, range: Range) -> Result<Download> {
        let name = self.named(key);
        for _ in 0..TRIES {
            let object = self.find(key).await?.ok_or_else(|| unknown(key))?;
            let bytes = range.within(object.size)?;
            let ask = Ask::new(Method::GET, Some(&name))
                .header("if-match", &object.tag)
                .header("range", format!("bytes={}-{}", bytes.start, bytes.end - 1));
            match self.client.ask(&ask).await {
                Ok(answer) => {
                    let body = self.stream(key, answer.body, bytes.end - bytes.start, None);
                    return Ok(Download {
                        object,
                        range: bytes,
                        body,
                    });
                }
                // Another object by now, maybe a shorter one.
                Err(refusal) if matches!(refusal.status(), 412 | 416) => {}
                Err(refusal) => return Err(gone(key, refusal)),
            }
        }
        Err(fault::unavailable(
            ENGINE,
            "the object is replaced again and again",
        ))
    }

    fn stream(&self, key: &Key, body: Incoming, size: u64, checksum: Option<u32>) -> Body {
        let (key, patience) = (key.clone(), self.client.timeout);
        let state = Some((body, size, 0_u32));
        stream::try_unfold(state, move |state| {
            let key = key.clone();
            async move {
                let Some((mut body, left, sum)) = state else {
                    return Ok(None);
                };
                loop {
                    let frame = match timeout(patience, body.frame()).await {
                        Err(_) => return Err(fault::timeout(ENGINE, patience)),
                        Ok(Some(Err(why))) => {
                            return Err(fault::unavailable(ENGINE, why.to_string()));
                        }
                        Ok(Some(Ok(frame))) => frame,
                        Ok(None) if left > 0 => {
                            return Err(fault::unavailable(ENGINE, "the answer broke off"));
                        }
                        Ok(None) if checksum.is_some_and(|checksum| checksum != sum) => {
                            return Err(damaged(&key));
                        }
                        Ok(None) => return Ok(None),
                    };
                    if let Ok(piece) = frame.into_data()
                        && !piece.is_empty()
                    {
                        let sum = crc32c::crc32c_append(sum, &piece);
                        let left = left.saturating_sub(piece.len() as u64);
                        return Ok(Some((piece, Some((body, left, sum)))));
                    }
                }
            }
        })
        .boxed()
    }
}

fn gone(key: &Key, refusal: Refusal) -> sinew_core::Error {
    if refusal.status() == 404 && !refusal.is(&["NoSuchBucket"]) {
        unknown(key)
    } else {
        refusal.general()
    }
}
