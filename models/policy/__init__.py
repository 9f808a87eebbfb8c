"""The budget-conditioned LSTM that writes architectures down."""
