"""No text that this project prints, logs or stores shows a secret; and what is none stays as it is."""

import hashlib
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt.secrets.hiding import HIDDEN, guard_output, public_uri, redact, redact_values, without_userinfo
from tests import ROOT

# Put together here: scanners of repositories find whole ones.
TOKENS = {
    "Hugging Face": "hf_" + "aB3dE5gH7j" * 4,
    "GitHub": "ghp_" + "aB3dE5gH7j" * 4,
    "GitHub, fine-grained": "github_pat_" + "11ABCDEFG0" * 6,
    "GitLab": "glpat-" + "aB3dE5gH7j" * 2,
    "OpenAI": "sk-" + "proj-" + "aB3dE5gH7j" * 4,
    "Anthropic": "sk-" + "ant-api03-" + "aB3dE5gH7j" * 4,
    "AWS": "AKIA" + "2E5GH7J9K1M3N5P7",
    "Google": "AIza" + "aB3dE5gH7jK9mN1pQ3sT5vX7zA-_cD4fG6h",
    "Slack": "xoxb-" + "123456789012-aB3dE5gH7j",
    "Prefect": "pnu_" + "aB3dE5gH7j" * 4,
    "Databricks": "dapi" + "0a1b2c3d" * 4,
    "JSON web token": "eyJhbGciOiJIUzI1NiJ9." + "eyJzdWIiOiIxMjM0NSJ9." + "c2lnbmF0dXJlLW9mLWl0",  # gitleaks:allow
    "private key": "-----BEGIN RSA " + "PRIVATE KEY-----\nMIIEpAIBAAKCAQEA\nq83\n-----END RSA " + "PRIVATE KEY-----",
}
SCHEMES = ["postgresql", "postgresql+psycopg2", "mysql+pymysql", "redis", "https", "ssh", "amqp", "mongodb+srv"]

# Passwords as people choose them: whatever an address can hold, with the three signs that it should not.
passwords = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1, max_size=24)
literal_passwords = st.text("abcXYZ0189!$&*+,-.;=_~?#%@/ü", min_size=1, max_size=24).map(lambda text: f"q{text}Q")
users = st.sampled_from(["", "u", "mlflow", "first.last%40example.org"])
around = st.sampled_from(["{}", "cannot reach {}: refused", "({})", "'{}'", '{{"uri": "{}"}}', "a={}, {}", "see <{}>."])


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    return monkeypatch


def visible(secret: str, text: str) -> bool:
    return secret in text.replace(HIDDEN, " ")


@given(st.sampled_from(SCHEMES), users, passwords, around)
def test_a_percent_encoded_password_is_in_no_message(scheme: str, user: str, password: str, message: str) -> None:
    encoded = quote(password, safe="")
    uri = f"{scheme}://{user}:{encoded}@db.host:5432/name"
    said = redact(message.format(uri, uri))
    assert said == message.format(*[f"{scheme}://{user}:***@db.host:5432/name"] * 2)


@given(st.sampled_from(SCHEMES), users, literal_passwords, around)
def test_nor_is_one_that_should_have_been_encoded(scheme: str, user: str, password: str, message: str) -> None:
    said = redact(message.format(*[f"{scheme}://{user}:{password}@db.host:5432/name"] * 2))
    # Of a password with a slash and an @, libraries disagree where it ends; the part before the @ is hidden.
    if "@" not in password or "/" not in password:
        assert not visible(password, said)


@given(st.sampled_from(SCHEMES), users, passwords, st.integers(1, 2))
def test_nor_is_one_in_an_address_inside_another(scheme: str, user: str, password: str, depth: int) -> None:
    inner = f"{scheme}://{user}:{quote(password, safe='')}@db.host/name"
    for _ in range(depth):
        inner = quote(inner, safe="")
    end = inner.rindex(quote("@", safe="") if depth == 1 else quote(quote("@", safe=""), safe=""))
    said = redact(f"https://login.host/?next={inner}&x=1")
    assert said.endswith(f"{HIDDEN}{inner[end:]}&x=1")


@given(st.text(max_size=300))
def test_what_is_hidden_once_stays_as_it_is(text: str) -> None:
    assert redact(redact(text)) == redact(text)


@given(st.binary(max_size=40), st.sampled_from(["sha256 is {}", "{}  data/a.txt", '"md5": "{}"', "fingerprint={}"]))
def test_hashes_are_no_secrets(data: bytes, message: str) -> None:
    for digest in (hashlib.sha256(data).hexdigest(), hashlib.md5(data).hexdigest(), hashlib.sha1(data).hexdigest()):
        assert redact(message.format(digest)) == message.format(digest)


@pytest.mark.parametrize("token", TOKENS.values(), ids=TOKENS)
@pytest.mark.parametrize("message", ["{}", "401 for key {}: refused", "x = '{}'", "https://{}@host/repo.git", "a/{}/b"])
def test_tokens_of_known_forms_are_hidden(token: str, message: str) -> None:
    assert not visible(token, redact(message.format(token)))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Authorization: Basic dXNlcjpwYXNz", "Authorization: Basic ***"),
        ("{'Authorization': 'Bearer abc'}", "{'Authorization': 'Bearer ***'}"),
        ("curl -H 'authorization: token abc123'", "curl -H 'authorization: token ***'"),
        ("Proxy-Authorization: Digest username=a, response=b", "Proxy-Authorization: Digest ***"),
        ("got Bearer abcdef123456 instead", "got Bearer *** instead"),
        ("https://b.s3.host/k?X-Amz-Credential=A%2Fb&X-Amz-Signature=0f&v=1", "https://b.s3.host/k?X-Amz-Credential=***&X-Amz-Signature=***&v=1"),
        ("https://a.blob.host/c?sv=1&sig=a%2Bb%3D", "https://a.blob.host/c?sv=1&sig=***"),  # gitleaks:allow
        ("sqlite:////tmp/m.db?timeout=5&token=x", "sqlite:////tmp/m.db?timeout=5&token=***"),
        ("next=%3Ftoken%3Dabc%26x%3D1", "next=%3Ftoken%3D***%26x%3D1"),
        ("host=h password=pw dbname=d", "host=h password=*** dbname=d"),
        ("Server=h;Uid=sa;Pwd=pw;Encrypt=yes", "Server=h;Uid=sa;Pwd=***;Encrypt=yes"),
        ("AccountName=a;AccountKey=abc==;Suffix=core", "AccountName=a;AccountKey=***;Suffix=core"),
        ("params.yaml: a.password = 'p w' is not", "params.yaml: a.password = '***' is not"),
        ("{'client_secret': \"it's\"}", "{'client_secret': \"***\"}"),
        ("HF_TOKEN=abcdef python train.py", "HF_TOKEN=*** python train.py"),
        ("environ({'WANDB_API_KEY': 'abc'})", "environ({'WANDB_API_KEY': '***'})"),
        ("https://0123456789abcdef0123@sentry.host/1", "https://***@sentry.host/1"),
        ("https://0123456789abcdef0123:x-oauth-basic@host/1", "https://***:***@host/1"),
    ],
)  # fmt: skip
def test_headers_queries_and_named_values_are_hidden(text: str, shown: str) -> None:
    assert redact(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "http://127.0.0.1:5000/#/models/name@champion",
        "http://127.0.0.1:PORT",
        "http://[::1]:4200/api/x@y",
        "sqlite:////home/a@b/mlflow.db",
        "models:/shakespeare-gpt@champion",
        "git://repo:main@data/a.txt github://org:repo@v1/a.txt docker://python:3.11@sha256:ab",
        "ssh://git@host/repo.git",
        "first.last@example.org: 12:30@home",
        "data/tokenize.json: 1,024 tokens, eot_token = 50256, max_new_tokens: 120",
        "PREFECT_API_KEY: not set; MLFLOW_TRACKING_PASSWORD: missing",
        "basic authentication failed, no bearer token was given",
        "tokenizer: bpe; key train.learning_rate = 0.001; the key=value form",
        "resuming after step 100 of 500  loss 3.123  12,345 tok/s, MFU 3.1%  0:12 left",
        "risk-adjusted-and-rather-long-name, task-12345678901234567890",
    ],
)
def test_what_is_no_secret_stays_as_it_is(text: str) -> None:
    assert redact(text) == text


@pytest.mark.parametrize("file", ["params.yaml", "dvc.yaml", "README.md", "docs/scaling.md", "docs/recovery.md"])
def test_the_files_of_this_project_stay_as_they_are(file: str) -> None:
    for line in (ROOT / file).read_text(encoding="utf-8").splitlines():
        assert redact(line) == line


@pytest.mark.parametrize(
    ("name", "value", "secret"),
    [
        ("MLFLOW_TRACKING_PASSWORD", "pa55 wörd", "pa55 wörd"),
        ("AWS_SECRET_ACCESS_KEY", "a/b+c0123456789", "a/b+c0123456789"),
        ("WANDB_API_KEY", "0123456789abcdef" * 2, "0123456789abcdef" * 2),
        ("PREFECT_API_AUTH_STRING", "admin:hunter2!", "hunter2!"),
        ("PGPASSWORD", "correcthorse", "correcthorse"),
        ("MLFLOW_TRACKING_URI", "postgresql://u:p%40ss%2Fw@h/db", "p@ss/w"),  # gitleaks:allow
        ("MLFLOW_TRACKING_URI", "postgresql://u:un'quoted9@h/db", "un'quoted9"),
        ("HTTPS_PROXY", "http://me:pr0xy-pass@proxy:3128", "pr0xy-pass"),  # gitleaks:allow
        ("https_proxy", "me:pr0xy-pass@proxy:3128", "pr0xy-pass"),
        ("MLFLOW_TRACKING_URI", "mlflow:pa55@word@host:5000", "pa55@word"),
        ("FSSPEC_HTTPS", '{"headers": {"Authorization": "Bearer b34r3r-value"}}', "b34r3r-value"),  # gitleaks:allow
        ("DSN", "host=h password=dsn-pa55 dbname=d", "dsn-pa55"),
    ],
)
def test_values_of_the_environment_are_hidden_wherever_they_stand(
    environment: pytest.MonkeyPatch, name: str, value: str, secret: str
) -> None:
    environment.setenv(name, value)
    for form in (secret, quote(secret), quote(secret, safe=""), json.dumps(secret), repr(secret)):
        said = redact(f"refused: {form} (wrong)")
        assert not visible(secret, said)
        assert HIDDEN in said
        assert said.startswith("refused: ")


def test_values_that_are_no_utf8_are_hidden_too(environment: pytest.MonkeyPatch) -> None:
    secret = os.fsdecode(b"\xff\xfe-not-utf8")
    environment.setenv("DB_PASSWORD", secret)
    assert redact(f"a {secret} b %FF%FE-not-utf8 c {secret!r}") == "a *** b *** c '***'"


def test_a_password_that_looks_like_an_address_is_hidden_and_an_address_of_tokens_is_not(
    environment: pytest.MonkeyPatch,
) -> None:
    environment.setenv("DB_PASSWORD", "x://y-z")
    environment.setenv("AUTH_TOKEN_URL", "https://login.host/token")
    assert redact("x://y-z at https://login.host/token") == "*** at https://login.host/token"


def test_short_words_paths_and_numbers_of_the_environment_are_not_hidden(
    environment: pytest.MonkeyPatch, tmp_path: object
) -> None:
    environment.setenv("DB_PASSWORD", "gpt")
    environment.setenv("MLFLOW_TRACKING_URI", "postgresql://postgres:postgres@localhost/mlflow")
    environment.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path))
    environment.setenv("TOKEN_LIMIT", "123456")
    environment.setenv("AUTH_SERVICE_HOST", "10.20.30.40")
    text = f"gpt reads {tmp_path} on postgres, 123456 tokens from 10.20.30.40"
    assert redact(text) == text
    environment.setenv("DB_PASSWORD", "championship")
    assert redact("the championships") == "the championships", "part of another word"


def test_values_of_json_are_hidden_and_keys_stay() -> None:
    value = {"uri": "redis://:p@h", "password": "x", "list": ["mysql://u:p@h", 1, None, {"token_count": 3.5}]}
    assert redact_values(value) == {
        "uri": "redis://:***@h",
        "password": HIDDEN,
        "list": ["mysql://u:***@h", 1, None, {"token_count": 3.5}],
    }


@pytest.mark.parametrize(
    ("uri", "bare", "public"),
    [
        ("http://u:p@host:5000", "http://host:5000", "http://host:5000"),
        ("https://token@host/api?token=t", "https://host/api?token=t", "https://host/api?token=***"),
        ("postgresql://u:p/w@h:1/db", "postgresql://h:1/db", "postgresql://u:***@h:1/db"),
        ("postgresql+psycopg2://u:p@w@h/db", "postgresql+psycopg2://h/db", "postgresql+psycopg2://u:***@h/db"),
        ("sqlite:////tmp/a@b/m.db", "sqlite:////tmp/a@b/m.db", "sqlite:////tmp/a@b/m.db"),
        ("http://host:1/x@y", "http://host:1/x@y", "http://host:1/x@y"),
        ("mlflow.db", "mlflow.db", "mlflow.db"),
    ],
)
def test_an_address_to_try_has_no_user_and_one_to_show_no_password(uri: str, bare: str, public: str) -> None:
    assert without_userinfo(uri) == bare
    assert public_uri(uri) == public


def test_a_long_line_of_anything_takes_no_long_time() -> None:
    """No rule looks at a line's rest again and again: 64 KB of what begins like a secret takes seconds at the most."""
    pieces = [
        "a",
        "://",
        "x://u:",
        "password=",
        "eyJ",
        "%3A",
        "?",
        "?a",
        "sk-",
        "Bearer ",
        "https://a",
        "A_",
        "a:",
        "-----BEGIN ",
    ]
    begun = time.process_time()
    for piece in pieces:
        redact(piece * (65536 // len(piece)))
    assert time.process_time() - begun < 30  # a quadratic one alone takes minutes


@pytest.fixture
def record_factory() -> Iterator[None]:
    before = logging.getLogRecordFactory()
    yield
    logging.setLogRecordFactory(before)


def test_log_records_of_any_library_show_no_secret(record_factory: None, caplog: pytest.LogCaptureFixture) -> None:
    guard_output()
    guard_output()
    logger = logging.getLogger("some.library")
    logger.warning("connecting to %s with %d tries", "redis://:s3cr3t@h", 3)  # gitleaks:allow
    try:
        raise ValueError("could not parse postgresql://u:s3cr3t@h")  # gitleaks:allow
    except ValueError:
        logger.exception("failed")
    assert "connecting to redis://:***@h with 3 tries" in caplog.text
    assert "ValueError: could not parse postgresql://u:***@h" in caplog.text
    assert "s3cr3t" not in caplog.text


@pytest.mark.parametrize("thread", [False, True])
def test_tracebacks_show_no_secret_and_are_tracebacks_still(thread: bool) -> None:
    code = (
        "import threading\nfrom gpt.secrets.hiding import guard_output\nguard_output()\n"
        "def fail():\n"
        "    try: open('/none?token=' + 's3cr3t')\n"
        "    except OSError as error: raise RuntimeError('of ' + 'mysql://u:s3cr3t@h') from error\n"  # gitleaks:allow
        + ("t = threading.Thread(target=fail); t.start(); t.join()" if thread else "fail()")
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == (0 if thread else 1)
    assert done.stderr.count("Traceback (most recent call last)") == 2
    assert "RuntimeError: of mysql://u:***@h" in done.stderr
    assert "/none?token=***" in done.stderr
    assert ("Exception in thread Thread-1" in done.stderr) == thread
