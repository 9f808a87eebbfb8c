"""HTTP in, HTTP out, no maths; never imports torch or the trainer."""
