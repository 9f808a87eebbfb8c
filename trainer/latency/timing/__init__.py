"""Timing of ONNX graphs with nothing but Python 3.9, numpy and onnxruntime: all that a device kit takes to a device.

No file here imports anything else of PNAG but its errors: `trainer/latency/kit.py` joins them into the kit's script.
"""
