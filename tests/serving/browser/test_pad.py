"""The pad, where a base model goes on with a text, and the field of a classifier."""

import threading

from playwright.sync_api import Page, expect

from tests.serving.browser.conftest import Open
from tests.serving.browser.stub import CLASSIFY, COMPLETIONS, Reply, Stub, model


def pad_of(page: Page, text: str) -> None:
    page.get_by_label("Text that the model goes on with").fill(text)


def go_on(page: Page, name: str = "Go on") -> None:
    page.get_by_role("button", name=name).click()
    expect(page.get_by_role("button", name="Go on")).to_be_visible()
    expect(page.locator(".answer[data-state=waiting], .answer[data-state=writing]")).to_have_count(0)


def marks(page: Page) -> list[tuple[str, str]]:
    """Return the parts of the text behind the field, each with whose it is."""
    parts = page.locator(".marked > .typed, .marked > .by-model")
    return [(part.get_attribute("class") or "", part.text_content() or "") for part in parts.all()]


def test_the_model_goes_on_and_its_text_is_marked(open_page: Open, stub: Stub) -> None:
    page = open_page("plays/4")
    pad_of(page, "HAMLET.\n")
    go_on(page)
    go_on(page)
    expect(page.get_by_label("Text that the model goes on with")).to_have_value("HAMLET.\nTo be or not.To be or not.")
    assert [(kind.split()[0], text) for kind, text in marks(page)] == [
        ("typed", "HAMLET.\n"),
        ("by-model", "To be or not."),
        ("by-model", "To be or not."),
    ]
    first, second = stub.bodies(COMPLETIONS)
    assert first["prompt"] == "HAMLET.\n"
    assert second["prompt"] == "HAMLET.\nTo be or not."
    assert first["truncate_prompt_tokens"] == -1


def test_the_marked_text_lies_where_the_typed_text_does(open_page: Open, stub: Stub) -> None:
    """The letters that are seen are behind those of the field: both wrap at the same places."""
    stub.replies[COMPLETIONS] = [Reply(pieces=["and so the words go on and on " * 30, "\n\n", "end\n"])]
    page = open_page("plays/4", viewport={"width": 360, "height": 700})
    pad_of(
        page, "A very long beginning of a text\twith-a-word-that-is-much-longer-than-any-line-of-a-phone-would-have "
    )
    go_on(page)
    assert page.evaluate(SAME_PLACES) == {"width": 0, "height": 0, "styles": []}


SAME_PLACES = """() => {
    const area = document.getElementById('pad'), marked = document.querySelector('.marked');
    const styles = ['font', 'lineHeight', 'letterSpacing', 'overflowWrap', 'wordBreak', 'whiteSpace', 'tabSize', 'direction'];
    const differ = styles.filter((name) => getComputedStyle(area)[name] !== getComputedStyle(marked)[name]);
    area.style.blockSize = '1px';
    marked.style.paddingBlockEnd = marked.style.minBlockSize = '0';
    const [one, other] = [area, marked].map((element) => element.getBoundingClientRect());
    return { width: one.width - other.width, height: area.scrollHeight - marked.scrollHeight, styles: differ };
}"""


def test_an_edit_is_typed_and_the_rest_stays_the_model_s(open_page: Open, stub: Stub) -> None:
    page = open_page("plays/4")
    pad_of(page, "HAMLET. ")
    go_on(page)
    pad_of(page, "HAMLET. To be AND not.")
    pad_of(page, "HAMLET. To be AND not. And more")
    assert [(kind.split()[0], text) for kind, text in marks(page)] == [
        ("typed", "HAMLET. "),
        ("by-model", "To be "),
        ("typed", "AND"),
        ("by-model", " not."),
        ("typed", " And more"),
    ]


def test_undo_takes_the_last_continuation_and_nothing_typed(open_page: Open, stub: Stub) -> None:
    stub.replies[COMPLETIONS] = [Reply(pieces=["one "]), Reply(pieces=["two "])]
    page = open_page("plays/4")
    pad = page.get_by_label("Text that the model goes on with")
    pad_of(page, "Count: ")
    go_on(page)
    go_on(page)
    pad_of(page, "Count: one two (typed)")
    undo = page.get_by_role("button", name="Undo")
    undo.click()
    expect(pad).to_have_value("Count: one (typed)")
    undo.click()
    expect(pad).to_have_value("Count: (typed)")
    expect(undo).to_be_disabled()


def test_another_try_replaces_the_last_continuation(open_page: Open, stub: Stub) -> None:
    stub.replies[COMPLETIONS] = [Reply(pieces=["one"]), Reply(pieces=["two"]), Reply(status=503, message="Gone.")]
    page = open_page("plays/4")
    pad = page.get_by_label("Text that the model goes on with")
    pad_of(page, "Count: ")
    go_on(page)
    go_on(page, "Try again")
    expect(pad).to_have_value("Count: two")
    first, second = stub.bodies(COMPLETIONS)
    assert first["prompt"] == second["prompt"] == "Count: "
    assert first["seed"] != second["seed"]
    go_on(page, "Try again")
    expect(page.locator("main .error")).to_contain_text("Gone.")
    expect(pad).to_have_value("Count: two")


def test_escape_stops_the_pad(open_page: Open, stub: Stub) -> None:
    hold = threading.Event()
    stub.replies[COMPLETIONS] = [Reply(hold=hold)]
    page = open_page("plays/4")
    pad = page.get_by_label("Text that the model goes on with")
    pad.fill("Never ")
    page.keyboard.press("Control+Enter")
    expect(pad).to_have_value("Never To ")
    expect(pad).not_to_be_editable()
    page.keyboard.press("Escape")
    expect(page.locator(".meta")).to_contain_text("Stopped")
    assert stub.left.wait(20)
    hold.set()
    expect(pad).to_be_editable()


def test_tokens_of_the_pad_are_shown_in_the_text(open_page: Open, stub: Stub) -> None:
    page = open_page("plays/4")
    pad_of(page, "HAMLET. ")
    go_on(page)
    page.get_by_text("Show tokens").click()
    assert page.locator(".marked .token").all_text_contents() == ["To ", "be", " or", " not."]
    go_on(page)
    expect(page.locator(".marked .token")).to_have_count(8)
    page.get_by_text("Show tokens").click()
    expect(page.get_by_label("Text that the model goes on with")).to_have_value("HAMLET. To be or not.To be or not.")


def test_two_models_go_on_beside_each_other_until_one_is_kept(open_page: Open, stub: Stub) -> None:
    stub.replies[COMPLETIONS] = [Reply(pieces=["one"]), Reply(pieces=["two"])]
    page = open_page("plays/4")
    page.get_by_label("Compare with").select_option("plays/3")
    pad = page.get_by_label("Text that the model goes on with")
    pad_of(page, "Count: ")
    go_on(page)
    expect(pad).to_have_value("Count: ")
    first, second = stub.bodies(COMPLETIONS)
    assert {first.pop("model"), second.pop("model")} == {"plays/3", "plays/4"}
    assert first == second
    kept = page.locator(".answer .text").nth(1).text_content()
    page.get_by_role("button", name="Keep this").nth(1).click()
    expect(pad).to_have_value(f"Count: {kept}")
    assert marks(page)[1] == ("by-model", kept)


def test_a_classifier_shows_its_classes_as_bars(open_page: Open, stub: Stub) -> None:
    page = open_page("spam/1")
    page.get_by_label("Text to classify").fill("You have won!")
    page.keyboard.press("Enter")
    expect(page.locator(".verdict")).to_have_text("spam")
    rows = page.locator(".classes li").all_inner_texts()
    assert [row.split() for row in rows] == [["ham", "1.2%"], ["spam", "98.8%"]]
    widths = [bar.bounding_box() for bar in page.locator(".classes .bar").all()]
    assert widths[0]
    assert widths[1]
    assert 50 < widths[1]["width"] / widths[0]["width"] < 100
    assert stub.bodies(CLASSIFY) == [{"model": "spam/1", "input": "You have won!"}]
    expect(page.locator("[aria-live=polite]")).to_have_text("spam, 98.8%.")


def test_two_classifiers_stand_beside_each_other(open_page: Open, stub: Stub) -> None:
    stub.models += [model("spam/2", "classifier", labels=["ham", "spam"])]
    page = open_page("spam/1")
    page.get_by_label("Compare with").select_option("spam/2")
    page.get_by_label("Text to classify").fill("You have won!")
    page.get_by_role("button", name="Classify").click()
    expect(page.locator(".verdict")).to_have_count(2)
    assert page.locator(".answer h3").all_text_contents() == ["spam/1", "spam/2"]
