"""Search methods beside ours, over the same records and budgets."""
