//! `Kv` over PostgreSQL.
