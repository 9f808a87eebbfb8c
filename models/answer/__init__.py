"""From a bundle and a budget to networks, with ONNX Runtime."""
