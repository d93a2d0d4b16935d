"""A headless Chromium for tests that look at pages: Debian's, driven by Playwright; skipped where there is none."""

import dataclasses
import os
import shutil
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, sync_playwright

_NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
_HERE = {"127.0.0.1", "localhost", "::1"}


@dataclasses.dataclass
class Seen:
    """What a page did.

    Attributes:
        errors: what went to its console as an error, and exceptions that nobody caught.
        requests: address of everything that it asked for, itself included; ``data:`` and ``blob:`` need no request.
    """

    errors: list[str] = dataclasses.field(default_factory=list)
    requests: list[str] = dataclasses.field(default_factory=list)

    @property
    def away(self) -> list[str]:
        """The requests that leave this machine."""
        return [url for url in self.requests if urlsplit(url).scheme != "file" and urlsplit(url).hostname not in _HERE]


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """One browser for all tests of a process."""
    found = next(filter(None, map(shutil.which, _NAMES)), None)
    if found is None:
        pytest.skip("no Chromium here (Debian: apt-get install chromium)")
    with sync_playwright() as playwright:
        # Chromium refuses its sandbox to root; shared memory is 64 MB in many containers.
        options = ["--disable-dev-shm-usage"] + (["--no-sandbox"] if os.geteuid() == 0 else [])
        browser = playwright.chromium.launch(executable_path=found, args=options)
        yield browser
        browser.close()


@pytest.fixture
def seen() -> Seen:
    """What ``page`` of the same test did."""
    return Seen()


@pytest.fixture
def page(browser: Browser, seen: Seen) -> Iterator[Page]:
    """An empty page, 1280 x 900, in light colours; ``page.emulate_media`` and ``page.set_viewport_size`` change that."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, color_scheme="light")
    page = context.new_page()

    def said(message: ConsoleMessage) -> None:
        if message.type == "error":
            seen.errors.append(message.text)

    page.on("console", said)
    page.on("pageerror", lambda error: seen.errors.append(str(error)))
    context.on("request", lambda request: _note(seen, request.url))
    yield page
    context.close()


def _note(seen: Seen, url: str) -> None:
    if not url.startswith(("data:", "blob:")):
        seen.requests.append(url)
