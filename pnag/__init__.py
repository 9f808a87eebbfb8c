"""PNAG under one name: `pnag.models`, `pnag.trainer`, `pnag.service`, `pnag.cli`, `pnag.bench`.

The rooms are links to the folders of the same name at the root of the repository; a wheel holds them as plain folders.
"""

import os

# ONNX Runtime >= 1.29 reports usage by default; it reads this when it is loaded, and all that loads it comes by here.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
