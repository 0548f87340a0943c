"""The page with the server that it is of: a conversation, a comparison, a text that goes on, as a user starts it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.conftest import write_params
from tests.serving.browser.test_chat import answers, say
from tests.serving.browser.test_pad import go_on, pad_of
from tests.serving.live import Server, running_server

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(
    chat_folder: Path, base_folder: Path, classifier_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    project = tmp_path_factory.mktemp("project")
    write_params(project, {})
    (project / "keys.txt").write_text("a-key-of-tests\n")
    models = (chat_folder, base_folder, classifier_folder)
    with running_server(project, models, "--api-key-file", "keys.txt") as server:
        yield server


@pytest.fixture
def page(browser: Browser, server: Server) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1100, "height": 800})
    context.set_default_timeout(30_000)
    page = context.new_page()
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto(server.address)
    page.get_by_role("dialog").get_by_role("textbox").fill("a-key-of-tests")
    page.keyboard.press("Enter")
    yield page
    context.close()
    assert not problems


def test_a_conversation_with_tokens(page: Page) -> None:
    page.get_by_role("switch", name="Show tokens").check(force=True)
    say(page, "Who is the queen?")
    (text,) = answers(page)
    say(page, "And the king?")
    assert len(answers(page, 2)) == 2
    assert text
    expect(page.locator(".token").first).to_be_visible()
    assert "tokens/s" in page.locator(".meta").first.inner_text()


def test_a_text_goes_on_and_may_be_longer_than_the_context(page: Page) -> None:
    page.get_by_label("Model", exact=True).select_option("base")
    text = "To be, or not to be. " * 40
    pad_of(page, text)
    go_on(page)
    written = page.get_by_label("Text that the model goes on with").input_value()
    assert written.startswith(text)
    assert len(written) > len(text)


def test_a_text_is_classified(page: Page) -> None:
    page.get_by_label("Model", exact=True).select_option("classifier")
    page.get_by_label("Text to classify").fill("win a prize")
    page.get_by_role("button", name="Classify").click()
    expect(page.get_by_text("spam").first).to_be_visible()
