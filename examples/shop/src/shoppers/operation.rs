use hyper::Method;

/// The kinds of requests that shoppers and the shop's staff make.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    /// Opening an account.
    Register,
    /// Logging in.
    LogIn,
    /// Changing the password, which ends all older tokens.
    ChangePassword,
    /// A page of the catalogue.
    Browse,
    /// One product.
    View,
    /// Looking into the cart.
    Cart,
    /// Putting something into the cart.
    AddToCart,
    /// Changing a quantity in the cart.
    ChangeCart,
    /// Taking something out of the cart.
    RemoveFromCart,
    /// Ordering; the payment is part of it.
    Order,
    /// Looking at an order.
    ViewOrder,
    /// A page of one's own orders.
    ListOrders,
    /// Looking at a payment.
    ViewPayment,
    /// Cancelling an order.
    Cancel,
    /// Confirming a delivery.
    ConfirmDelivery,
    /// The staff sends an order off.
    Ship,
    /// The staff gives money back.
    Refund,
    /// The staff looks at a product's stock.
    Stock,
    /// The staff fills up a product's stock.
    Restock,
}

impl Operation {
    pub(super) fn method(self) -> Method {
        match self {
            Self::Browse
            | Self::View
            | Self::Cart
            | Self::ViewOrder
            | Self::ListOrders
            | Self::ViewPayment
            | Self::Stock => Method::GET,
            Self::ChangePassword | Self::ChangeCart => Method::PUT,
            Self::RemoveFromCart => Method::DELETE,
            _ => Method::POST,
        }
    }

    /// The name for people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Register => "register",
            Self::LogIn => "log in",
            Self::ChangePassword => "change password",
            Self::Browse => "browse",
            Self::View => "view product",
            Self::Cart => "view cart",
            Self::AddToCart => "add to cart",
            Self::ChangeCart => "change cart",
            Self::RemoveFromCart => "remove from cart",
            Self::Order => "order and pay",
            Self::ViewOrder => "view order",
            Self::ListOrders => "list orders",
            Self::ViewPayment => "view payment",
            Self::Cancel => "cancel",
            Self::ConfirmDelivery => "confirm delivery",
            Self::Ship => "ship",
            Self::Refund => "refund",
            Self::Stock => "look at stock",
            Self::Restock => "restock",
        }
    }
}
