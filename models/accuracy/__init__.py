"""How accurate an architecture is: features of it, and the evaluator's network over them."""
