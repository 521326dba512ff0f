//! What each service keeps, in a SQLite database of its own.

pub(crate) mod carts;
pub(crate) mod catalogue;
pub(crate) mod orders;
pub(crate) mod payments;
pub(crate) mod products;
mod row;
mod sqlite;
pub(crate) mod users;

pub(crate) use sqlite::Store;
