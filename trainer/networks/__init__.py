"""One network by itself: cut from a supernet, trained further, exported, tried."""
