//! `Bus` over Kafka.
