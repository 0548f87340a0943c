"""A browser for a process of tests, and for each test a page of its own with a server that does what the test says."""

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, expect, sync_playwright

from tests.serving.browser import install
from tests.serving.browser.stub import Stub, model, serve

Open = Callable[..., Page]
_PATIENCE_MS = 15_000  # beside other processes on two cores


@pytest.fixture(
    scope="package"
)  # as long as it is there, its event loop runs in this thread, and changes what Prefect returns
def browser() -> Iterator[Browser]:
    if reason := install.why_not():
        pytest.skip(reason)
    environment: dict[str, str | float | bool] = {**os.environ, "FONTCONFIG_FILE": str(install.FONTS)}
    environment["LD_LIBRARY_PATH"] = str(install.LIBRARIES)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=install.CHROMIUM, env=environment, timeout=120_000)
        yield browser
        browser.close()


expect.set_options(timeout=_PATIENCE_MS)


@pytest.fixture(scope="session")
def served() -> Iterator[Stub]:
    stub = Stub()
    server = serve(stub)
    yield stub
    server.should_exit = True


@pytest.fixture
def stub(served: Stub) -> Stub:
    """The server as it is when nothing was told: one model of each kind, two of a chat and of a base."""
    fresh = Stub(address=served.address)
    fresh.models = [
        model("talk/2", "chat", default=True),
        model("talk/1", "chat", context_length=128),
        model("plays/4", "base"),
        model("plays/3", "base"),
        model("spam/1", "classifier", labels=["ham", "spam"]),
    ]
    vars(served).update(vars(fresh))
    return served


@pytest.fixture
def open_page(browser: Browser, stub: Stub) -> Iterator[Open]:
    """Open the page in a browser window of its own; no error of its scripts or its policy goes unseen."""
    contexts: list[BrowserContext] = []
    problems: list[str] = []

    def note_policy(line: ConsoleMessage) -> None:
        if "Content Security Policy" in line.text:
            problems.append(line.text)

    def open_one(name: str | None = None, *, at: str = "/", script: str | None = None, **options: Any) -> Page:
        settings: dict[str, Any] = {"viewport": {"width": 1100, "height": 800}} | options
        context = browser.new_context(**settings)
        contexts.append(context)
        context.set_default_timeout(_PATIENCE_MS)
        if script:
            context.add_init_script(script)
        page = context.new_page()
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", note_policy)
        page.goto(stub.address + at)
        if name:
            page.get_by_label("Model", exact=True).select_option(name)
        return page

    yield open_one
    for context in contexts:
        context.close()
    assert problems == []
