"""ONNX graphs, written node by node. No inference: that is `answer`."""
