"""A conversation on the page: what is sent, what is shown, stop, another try, an edit, two models at once."""

import threading

from playwright.sync_api import Page, expect

from tests.serving.browser.conftest import Open
from tests.serving.browser.stub import CHAT, MODELS, Reply, Stub, model


def say(page: Page, text: str) -> None:
    page.get_by_label("Message", exact=True).fill(text)
    page.keyboard.press("Enter")


def answers(page: Page, count: int = 1) -> list[str]:
    """Return the texts of all answers, when so many have ended."""
    expect(page.locator(".answer[data-state=done], .answer[data-state=stopped]")).to_have_count(count)
    return page.locator(".answer .text").all_text_contents()


def test_a_conversation_goes_on_with_what_was_said_before(open_page: Open, stub: Stub) -> None:
    page = open_page()
    say(page, "Who are you?")
    assert answers(page) == ["To be or not."]
    say(page, "And then?")
    assert answers(page, 2) == ["To be or not."] * 2
    roles = [message["role"] for message in stub.bodies(CHAT)[1]["messages"]]
    assert roles == ["user", "assistant", "user"]
    assert [message["content"] for message in stub.bodies(CHAT)[1]["messages"]] == [
        "Who are you?",
        "To be or not.",
        "And then?",
    ]
    assert stub.bodies(CHAT)[0]["model"] == "talk/2", "the default of the server's list"


def test_figures_of_an_answer(open_page: Open, stub: Stub) -> None:
    stub.replies[CHAT] = [Reply(finish="length", dropped=3, delay=0.02)]
    page = open_page()
    say(page, "Go on.")
    answers(page)
    meta = page.locator(".meta").inner_text().replace("\u00a0", " ")
    assert meta.startswith("Cut at the limit of tokens · 4 tokens · ")
    assert "tokens/s · first after 0." in meta
    assert f"seed {stub.bodies(CHAT)[0]['seed']}" in meta
    expect(page.get_by_text("The 3 oldest messages were left out")).to_be_visible()


def test_escape_stops_and_keeps_what_had_come(open_page: Open, stub: Stub) -> None:
    hold = threading.Event()
    stub.replies[CHAT] = [Reply(hold=hold)]
    page = open_page()
    say(page, "Never end.")
    expect(page.locator(".answer .text")).to_have_text("To ")
    expect(page.get_by_role("button", name="Stop")).to_be_visible()
    page.keyboard.press("Escape")
    assert answers(page) == ["To "]
    assert page.locator(".meta").inner_text().startswith("Stopped · 1")
    assert stub.left.wait(20), "the request ends with the client"
    hold.set()
    expect(page.get_by_label("Message", exact=True)).to_be_focused()


def test_typing_goes_on_while_an_answer_comes(open_page: Open, stub: Stub) -> None:
    hold = threading.Event()
    stub.replies[CHAT] = [Reply(hold=hold)]
    page = open_page()
    say(page, "One.")
    expect(page.locator(".answer .text")).to_have_text("To ")
    say(page, "Two.")
    hold.set()
    answers(page)
    expect(page.get_by_label("Message", exact=True)).to_have_value("Two.")
    assert len(stub.bodies(CHAT)) == 1


def test_another_try_has_another_seed(open_page: Open, stub: Stub) -> None:
    stub.replies[CHAT] = [Reply(), Reply(pieces=["Better."])]
    page = open_page()
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("Seed").fill("7")
    page.get_by_role("button", name="Close").click()
    say(page, "Again?")
    answers(page)
    page.get_by_role("button", name="Try again").click()
    expect(page.locator(".answer .text")).to_have_text("Better.")
    first, second = stub.bodies(CHAT)
    assert first["messages"] == second["messages"]
    assert first["seed"] == 7
    assert second["seed"] != 7


def test_a_failed_try_leaves_the_answer_before_it(open_page: Open, stub: Stub) -> None:
    stub.replies[CHAT] = [Reply(), Reply(status=503, message="Going down.")]
    page = open_page()
    say(page, "Again?")
    answers(page)
    page.get_by_role("button", name="Try again").click()
    expect(page.locator("main .error")).to_contain_text("shutting down")
    assert answers(page) == ["To be or not."]


def test_the_last_message_can_be_edited(open_page: Open, stub: Stub) -> None:
    page = open_page()
    say(page, "Tpyo")
    answers(page)
    page.get_by_role("button", name="Edit message").click()
    page.get_by_label("Your message, to edit").fill("Typo")
    page.keyboard.press("Enter")
    expect(page.locator(".question .text")).to_have_text("Typo")
    answers(page)
    assert stub.bodies(CHAT)[1]["messages"] == [{"role": "user", "content": "Typo"}]


def test_shift_and_enter_begin_a_new_line(open_page: Open, stub: Stub) -> None:
    page = open_page()
    page.get_by_label("Message", exact=True).fill("one")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("two")
    page.keyboard.press("Enter")
    answers(page)
    assert stub.bodies(CHAT)[0]["messages"][0]["content"] == "one\ntwo"


def test_text_that_looks_like_markup_stays_text(open_page: Open, stub: Stub) -> None:
    markup = "<img src=x onerror=alert(1)><b>bold</b> &amp;"
    stub.replies[CHAT] = [Reply(pieces=[markup])]
    stub.models = [model("talk/<b>2</b>", "chat", facts=[["<i>Version</i>", markup]])]
    page = open_page()
    say(page, markup)
    assert answers(page) == [markup]
    assert page.locator(".question .text").text_content() == markup
    page.get_by_text("Show tokens").click()
    assert page.locator(".answer .text").text_content() == markup
    page.get_by_role("button", name="About").click()
    assert page.locator("#about-dialog dd").first.text_content() == markup
    assert page.locator("main img, main b, main i, dialog b, dialog i").count() == 0


def test_two_models_answer_at_once_with_the_same_seed(open_page: Open, stub: Stub) -> None:
    hold = threading.Event()
    stub.replies[CHAT] = [Reply(hold=hold), Reply(pieces=["Other."])]
    page = open_page()
    page.get_by_label("Compare with").select_option("talk/1")
    say(page, "Who?")
    expect(page.locator(".answer[data-state=writing]")).to_have_count(1)
    expect(page.locator(".answer[data-state=done]")).to_have_count(1)
    hold.set()
    assert sorted(answers(page, 2)) == ["Other.", "To be or not."]
    first, second = sorted(stub.bodies(CHAT), key=lambda body: body["model"])
    assert [first.pop("model"), second.pop("model")] == ["talk/1", "talk/2"]
    assert first == second
    assert first["max_tokens"] == 64, "of the one with the least context"
    left, right = (page.locator(".answer").nth(place).bounding_box() for place in (0, 1))
    assert left
    assert right
    assert left["y"] == right["y"]
    assert left["x"] + left["width"] <= right["x"]


def test_each_of_two_models_goes_on_from_its_own_answers(open_page: Open, stub: Stub) -> None:
    page = open_page()
    page.get_by_label("Compare with").select_option("talk/1")
    stub.replies[CHAT] = [Reply(pieces=["First."]), Reply(pieces=["Second."]), Reply()]
    say(page, "Who?")
    told = dict(zip(page.locator(".answer h3").all_text_contents(), answers(page, 2), strict=True))
    say(page, "And then?")
    answers(page, 4)
    for body in stub.bodies(CHAT)[2:]:
        assert body["messages"][1]["content"] == told[body["model"]]


def test_settings_are_sent_and_kept(open_page: Open, stub: Stub) -> None:
    page = open_page()
    page.get_by_role("button", name="Settings").click()
    for label, value in {"Temperature": "0.3", "Top p": "0.9", "Top k": "40", "Max tokens": "12", "Seed": "5"}.items():
        page.get_by_label(label).fill(value)
    page.get_by_label("System prompt").fill("Be brief.")
    page.get_by_label("Top p").fill("2")
    expect(page.get_by_label("Top p")).to_have_attribute("aria-invalid", "true")
    page.keyboard.press("Escape")
    page.reload()
    say(page, "Hm?")
    answers(page)
    body = stub.bodies(CHAT)[0]
    sent = {name: body[name] for name in ("temperature", "top_p", "top_k", "max_tokens", "seed")}
    assert sent == {"temperature": 0.3, "top_p": 0.9, "top_k": 40, "max_tokens": 12, "seed": 5}
    assert body["messages"][0] == {"role": "system", "content": "Be brief."}


def test_a_browser_that_keeps_nothing_will_do(open_page: Open, stub: Stub) -> None:
    refuse = """for (const name of ['localStorage', 'sessionStorage'])
        Object.defineProperty(window, name, { get() { throw new DOMException('no', 'SecurityError'); } });"""
    stub.key = "secret"
    page = open_page(script=refuse)
    page.get_by_label("Key", exact=True).fill("secret")
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("Seed").fill("9")
    page.keyboard.press("Escape")
    say(page, "Hm?")
    answers(page)
    assert stub.bodies(CHAT)[0]["seed"] == 9


def test_a_screen_reader_hears_an_answer_once_at_its_end(open_page: Open, stub: Stub) -> None:
    hold = threading.Event()
    stub.replies[CHAT] = [Reply(hold=hold)]
    page = open_page()
    say(page, "Speak.")
    expect(page.locator(".answer .text")).to_have_text("To ")
    live = page.locator("[aria-live=polite]")
    assert live.text_content() == ""
    hold.set()
    expect(live).to_have_text("Answer: To be or not.")


def test_it_works_behind_a_proxy_with_a_path(open_page: Open, stub: Stub) -> None:
    page = open_page(at="/behind/a/proxy/")
    expect(page.get_by_label("Model", exact=True)).to_have_value("talk/2")
    assert [body for path, body in stub.requests if path == MODELS] == []


def test_a_long_answer_stays_fluent(open_page: Open, stub: Stub) -> None:
    """What was written is left alone: a token costs the same at the beginning and after thousands."""
    pieces = [f"word{number}\n" if number % 9 == 0 else f"word{number} " for number in range(4000)]
    stub.replies[CHAT] = [Reply(pieces=pieces)]
    page = open_page()
    page.evaluate(COUNT_REMOVED)
    say(page, "Long.")
    assert answers(page) == ["".join(pieces)]
    assert page.evaluate("window.removed") == 0
    lengths = page.evaluate(
        "[...document.querySelectorAll('.answer .text > div')].map((block) => block.textContent.length)"
    )
    assert max(lengths) < 1700, "the browser lays out the last block alone"


COUNT_REMOVED = """() => {
    window.removed = 0;
    const count = (changes) => {
        for (const { target, removedNodes } of changes)
            if (target.closest?.('.answer .text')) window.removed += removedNodes.length;
    };
    new MutationObserver(count).observe(document.body, { childList: true, subtree: true });
}"""
