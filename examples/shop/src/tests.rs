//! The services over real sockets: each alone, and orders with all that it needs.

mod carts;
mod crashes;
mod orders;
mod outages;
mod payments;
mod products;
mod users;
mod world;
