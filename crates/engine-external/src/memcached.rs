//! `Cache` over Memcached.
