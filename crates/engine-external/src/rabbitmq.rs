//! `Bus` over RabbitMQ.
