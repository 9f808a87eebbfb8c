"""The one version; `python scripts/version.py --set VERSION` puts it everywhere else (tested)."""

VERSION = "0.1.0"
