//! What the shop's rules are. Nothing here does I/O, asks the time or draws a random number.

pub(crate) mod account;
pub(crate) mod attempts;
pub(crate) mod bank;
pub(crate) mod cart;
pub(crate) mod money;
pub(crate) mod order;
pub(crate) mod payment;
pub(crate) mod product;
pub(crate) mod stock;
