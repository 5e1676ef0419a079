"""Debian's Chromium without a window, for tests that look at a page as a user would."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

FLAGS = (
    '--headless=new', '--no-sandbox', '--disable-gpu', '--disable-background-networking',
    '--disable-component-update', '--disable-sync', '--no-first-run', '--disable-dev-shm-usage',
)  # fmt: skip
# Without a GPU the 3-D scene would be painted by the processor that the robot needs.
FLAT = '--disable-3d-apis'


def programs() -> tuple[str, str]:
    """Chromium and its driver; skips the test where one is missing."""
    chromium = shutil.which('chromium') or shutil.which('chromium-browser')
    driver = shutil.which('chromedriver')
    if chromium is None or driver is None:
        pytest.skip('no chromium here (Debian: apt-get install chromium chromium-driver)')
    return chromium, driver


@contextlib.contextmanager
def browser(profile: Path, *flags: str, size: tuple[int, int] = (1280, 900)) -> Iterator[Any]:
    """A browser with a profile of its own."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    chromium, driver = programs()
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (*FLAGS, f'--user-data-dir={profile}', '--window-size={},{}'.format(*size), *flags):
        options.add_argument(flag)
    found = webdriver.Chrome(options=options, service=Service(driver))
    try:
        yield found
    finally:
        found.quit()


def wait_until(condition: Callable[[], Any], timeout: float, what: str) -> Any:
    """What the condition gives once it is true."""
    deadline = time.monotonic() + timeout
    while not (found := condition()):
        assert time.monotonic() < deadline, f'not within {timeout:.0f} s: {what}'
        time.sleep(0.1)
    return found
