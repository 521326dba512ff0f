//! `Cache` over Redis.
