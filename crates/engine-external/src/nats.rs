//! `Bus` over NATS JetStream.
