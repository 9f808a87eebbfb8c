"""PNAG under one name: `pnag.models`, `pnag.trainer`, `pnag.service`, `pnag.cli`, `pnag.bench`.

The rooms are links to the folders of the same name at the root of the repository; a wheel holds them as plain folders.
"""

import os

# ONNX Runtime reports usage by default since 1.29; it reads this when it is loaded, and nothing of ours loads it earlier.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
