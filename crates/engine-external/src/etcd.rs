//! `Kv` over etcd.
