"""From a question to an answer: bundles, caches, the queue, inference. Knows no HTTP."""
