//! The framework against a node that is played by the test, over real sockets.
