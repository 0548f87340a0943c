"""What goes wrong between the page and the server: each error is told, and nothing that was typed is lost."""

import json
import threading

import pytest
from playwright.sync_api import Page, expect

from tests.serving.browser.conftest import Open
from tests.serving.browser.stub import CHAT, CLASSIFY, COMPLETIONS, MODELS, Reply, Stub, token_of
from tests.serving.browser.test_chat import answers, say

pytestmark = pytest.mark.slow  # a browser takes its time; the conversations of test_chat.py are tried each time


@pytest.mark.parametrize(
    ("reply", "told"),
    [
        (Reply(status=429, message="8 wait.", headers={"Retry-After": "4"}), "queue is full. 8 wait. Try again in 4 seconds"),
        (Reply(status=503, message="Stopping."), "shutting down, or has no model. Stopping."),
        (Reply(status=400, message="256 fit.", code="context_length_exceeded"), "longer than the model's context. 256 fit."),
        (Reply(status=400, message="temperature: at most 5."), "refused the request. temperature: at most 5."),
        (Reply(status=500, message="It broke."), "The server failed. It broke."),
        (Reply(status=502, body="<html>Bad gateway</html>"), "The server failed. 502"),
        (Reply(pieces=["To"], error={"message": "Out of memory."}), "The server failed. Out of memory."),
        (Reply(pieces=["To"], breaks=True), "The connection broke before the end."),
    ],
    ids=lambda value: f"{value.status}" if isinstance(value, Reply) else "",
)  # fmt: skip
def test_an_error_is_told_and_the_question_can_be_sent_again(
    open_page: Open, stub: Stub, reply: Reply, told: str
) -> None:
    stub.replies[CHAT] = [reply, Reply(pieces=["Better."])]
    reply.hold = threading.Event()
    page = open_page()
    say(page, "A long question")
    came = "".join(reply.pieces) if reply.status == 200 else ""
    expect(page.locator(".answer .text")).to_have_text(came)
    reply.hold.set()  # only now: a browser drops what it has not read yet when a connection breaks
    expect(page.locator("main .error")).to_contain_text(told)
    assert page.locator(".answer .text").text_content() == came, "what had come stays"
    page.get_by_label("Message", exact=True).fill("the next one")
    page.get_by_role("button", name="Try again").click()
    expect(page.locator(".answer .text")).to_have_text("Better.")
    expect(page.locator("main .error")).to_have_count(0)
    assert stub.bodies(CHAT)[1]["messages"] == [{"role": "user", "content": "A long question"}]
    expect(page.get_by_label("Message", exact=True)).to_have_value("the next one")


def test_no_connection_is_told(open_page: Open, stub: Stub) -> None:
    page = open_page()
    say_after_leaving(page)
    expect(page.locator("main .error")).to_contain_text("No connection to the server.")
    page.context.set_offline(False)
    page.get_by_role("button", name="Try again").click()
    assert answers(page) == ["To be or not."]


def say_after_leaving(page: Page) -> None:
    expect(page.get_by_role("button", name="Send")).to_be_visible()
    page.context.set_offline(True)
    say(page, "Anybody?")


def test_the_list_of_models_can_be_asked_for_again(open_page: Open, stub: Stub) -> None:
    stub.replies[MODELS] = [Reply(status=503, message="Loading."), Reply()]
    page = open_page()
    expect(page.locator("main .error")).to_contain_text("Loading.")
    page.get_by_role("button", name="Try again").click()
    expect(page.get_by_role("button", name="Send")).to_be_visible()


def test_a_server_without_models_is_told(open_page: Open, stub: Stub) -> None:
    stub.models = []
    page = open_page()
    expect(page.locator("main .error")).to_contain_text("no model")
    assert page.get_by_role("button", name="Try again").is_visible()


def test_a_key_is_asked_for_until_it_is_right(open_page: Open, stub: Stub) -> None:
    page = open_page()
    expect(page.get_by_role("button", name="Send")).to_be_visible()
    stub.key = "right"
    say(page, "Open.")
    key = page.get_by_label("Key", exact=True)
    key.fill("wrong")
    page.keyboard.press("Enter")
    expect(page.get_by_text("refused the key")).to_be_visible()
    key.fill("right")
    page.keyboard.press("Enter")
    assert answers(page) == ["To be or not."]
    assert page.evaluate("[Object.values(sessionStorage), Object.values(localStorage)]") == [["right"], []]
    page.reload()
    say(page, "Still open?")
    answers(page)


def test_two_requests_ask_for_a_key_once(open_page: Open, stub: Stub) -> None:
    page = open_page()
    page.get_by_label("Compare with").select_option("talk/1")
    stub.key = "right"
    say(page, "Open.")
    page.get_by_label("Key", exact=True).fill("right")
    page.keyboard.press("Enter")
    assert answers(page, 2) == ["To be or not."] * 2


def test_without_a_key_the_question_stays(open_page: Open, stub: Stub) -> None:
    page = open_page()
    expect(page.get_by_role("button", name="Send")).to_be_visible()
    stub.key = "right"
    say(page, "Open.")
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator("main .error")).to_contain_text("asks for a key")
    assert page.locator(".question .text").text_content() == "Open."


@pytest.mark.parametrize("bytes_at_once", [1, 7])
def test_chunks_cut_anywhere_make_the_same_text(open_page: Open, stub: Stub, bytes_at_once: int) -> None:
    stub.replies[CHAT] = [Reply(pieces=["naïve ", "€ 5, 🦉", "\r\n end"], tokens=[], cut=bytes_at_once)]
    page = open_page()
    say(page, "Cut.")
    assert answers(page) == ["naïve € 5, 🦉\r\n end"]


def test_every_cut_of_a_stream_has_the_same_events(open_page: Open) -> None:
    """Line ends of all kinds, comments, an empty event, several lines of data, characters of two to four bytes."""
    stream = (
        ": heartbeat\r\n\r\ndata: né €\r\ndata:🦉\n\nevent: x\rdata: {}\r\r: again\n\n\ndata: [DONE]\n\ndata: not ended"
    )
    page = open_page()
    found = page.evaluate(
        """async (bytes) => {
        const { readEvents } = await import(new URL('page/server/stream.js', document.baseURI).href);
        const results = new Set();
        for (let first = 0; first < bytes.length; first += 1) for (const step of [1, 2, bytes.length]) {
          const body = new ReadableStream({ start(control) {
            control.enqueue(new Uint8Array(bytes.slice(0, first)));
            for (let at = first; at < bytes.length; at += step) control.enqueue(new Uint8Array(bytes.slice(at, at + step)));
            control.close(); } });
          const events = [];
          for await (const event of readEvents(body)) events.push(event);
          results.add(JSON.stringify(events));
        }
        return [...results]; }""",
        list(stream.encode()),
    )
    assert [json.loads(result) for result in found] == [["né €\n🦉", "{}", "[DONE]"]]


def test_a_character_of_several_tokens_is_one_unit(open_page: Open, stub: Stub) -> None:
    parts = [token_of("an ")] + [token_of("?") | {"bytes": list(byte)} for byte in (b"\xf0\x9f", b"\xa6", b"\x89")]
    stub.replies[CHAT] = [Reply(pieces=["an 🦉"], tokens=parts)]
    page = open_page()
    page.get_by_text("Show tokens").click()
    say(page, "A bird.")
    answers(page)
    assert page.locator(".token").all_text_contents() == ["an ", "🦉"]
    page.locator(".token").nth(1).click()
    expect(page.locator("#alternatives table")).to_have_count(3)


def test_an_error_keeps_the_text_of_the_pad_and_of_the_classifier(open_page: Open, stub: Stub) -> None:
    failed = Reply(status=429, message="Full.")
    stub.replies = {COMPLETIONS: [failed], CLASSIFY: [failed]}
    page = open_page("plays/4")
    pad = page.get_by_label("Text that the model goes on with")
    pad.fill("HAMLET.")
    page.get_by_role("button", name="Go on").click()
    expect(page.locator("main .error")).to_contain_text("busy")
    expect(pad).to_have_value("HAMLET.")
    page.get_by_label("Model", exact=True).select_option("spam/1")
    text = page.get_by_label("Text to classify")
    text.fill("Win!")
    page.keyboard.press("Enter")
    expect(page.locator("main .error")).to_contain_text("busy")
    expect(text).to_have_value("Win!")
    page.get_by_label("Model", exact=True).select_option("plays/4")
    expect(pad).to_have_value("HAMLET.")


def test_another_model_stops_what_runs(open_page: Open, stub: Stub) -> None:
    hold = threading.Event()
    stub.replies[CHAT] = [Reply(hold=hold)]
    page = open_page()
    say(page, "Never end.")
    expect(page.locator(".answer .text")).to_have_text("To ")
    page.get_by_label("Model", exact=True).select_option("plays/4")
    assert stub.left.wait(20)
    hold.set()
