"""Pictures of the page for the README and the documentation: `make screenshots`.

Starts the service on the bundles that ship, looks at it with Chromium and writes docs/images/page-*.png. Each picture
is taken after the page has answered, so that two runs differ only where the bundles do.
"""

import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from socket import socket

from playwright.sync_api import Browser, Page, sync_playwright

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "docs" / "images"
CHROMIUM = Path("/usr/bin/chromium")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
READY_WITHIN_S = 60
BUNDLE = "ofa-mobilenetv3-w1.0-imagenet"
"""The bundle that `make serve` answers from."""
SETTLED = "main[data-state=answered][aria-busy=false]"


@dataclass(frozen=True)
class Shot:
    """One picture: a window, and how far along the range the budget first stands and is then moved, in hundredths."""

    name: str
    width: int
    height: int
    budgets: tuple[int, ...]
    is_dark: bool = False
    is_narrow: bool = False
    address: str = ""


SHOTS = (
    Shot("page-light", 1440, 900, (38, 46)),
    Shot("page-dark", 1440, 900, (24, 30), is_dark=True),
    Shot("page-narrow", 400, 860, (38,), is_narrow=True),
    Shot("page-weights", 1440, 900, (40, 47), address="?bundle=nas-bench-macro-cifar10"),
)


def main() -> int:
    """Write every picture; 1 if the page could not be looked at."""
    if not CHROMIUM.exists():
        sys.stderr.write(f"{CHROMIUM} is missing: apt-get install chromium\n")
        return 1
    IMAGES.mkdir(parents=True, exist_ok=True)
    with service() as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, headless=True, args=FLAGS)
        for shot in SHOTS:
            path = IMAGES / f"{shot.name}.png"
            took_ms = take(browser, url, shot, path)
            sys.stdout.write(
                f"{path.relative_to(ROOT)}: {path.stat().st_size / 1000:.0f} kB, drawn {took_ms:.0f} ms in\n"
            )
        browser.close()
    return 0


def take(browser: Browser, url: str, shot: Shot, path: Path) -> float:
    """Take one picture; returns how many ms after it was asked for the page showed its first answer."""
    context = browser.new_context(
        viewport={"width": shot.width, "height": shot.height},
        color_scheme="dark" if shot.is_dark else "light",
        device_scale_factor=2 if shot.is_narrow else 1,
        has_touch=shot.is_narrow,
        reduced_motion="reduce",
    )
    page = context.new_page()
    page.goto(f"{url}/{shot.address}")
    page.wait_for_selector(SETTLED)
    took_ms: float = page.evaluate("performance.now()")
    for share in shot.budgets:
        move(page, share)
    page.evaluate("document.activeElement.blur()")
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    page.screenshot(path=path, animations="disabled")
    context.close()
    return took_ms


def move(page: Page, share: int) -> None:
    """Set the budget by the slider, as a gesture of its own, and wait for the answer."""
    # The page takes what follows within a second for the same gesture; this waits until it would not.
    start = page.evaluate("performance.now()")
    page.wait_for_function("(start) => performance.now() > start + 1000", arg=start)
    page.locator("#slider").fill(str(share * 5))
    page.wait_for_selector(SETTLED)


@contextmanager
def service() -> Iterator[str]:
    """`pnag serve` on a free port, over the bundles that ship."""
    with socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PNAG_")}
    environment |= {"ORT_DISABLE_TELEMETRY": "1", "PNAG_LOG_LEVEL": "warning", "PNAG_BUNDLES": str(ROOT / "bundles")}
    environment["PNAG_DEFAULT_BUNDLE"] = BUNDLE
    command = [sys.executable, "-m", "pnag", "serve", "--port", str(port)]
    process = subprocess.Popen(command, cwd=ROOT, env=environment)
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + READY_WITHIN_S
        while not is_ready(url):
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit("pnag serve did not come up; its complaint is above")
            time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        process.wait()


def is_ready(url: str) -> bool:
    """True once the service answers."""
    try:
        with urllib.request.urlopen(f"{url}/readyz", timeout=5) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, ConnectionError):
        return False


if __name__ == "__main__":
    sys.exit(main())
