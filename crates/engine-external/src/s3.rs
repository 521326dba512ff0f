//! `Blob` over any S3.
