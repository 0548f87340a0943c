"""What would leave this machine with a secret in it is named by file and line; ordinary settings and code pass."""

import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt.errors import UserError
from gpt.secrets.scanner import Finding, find_in_patch, find_in_settings, find_in_text, refuse
from tests import ROOT
from tests.test_secrets import TOKENS

PASSWORD = "Xk7" + "vQ2pL9"
IN_SETTINGS = {
    "url": f"url: https://me:{PASSWORD}@host/text.zip",
    "a word for a password": "url: https://me:secret@host/text.zip",
    "chained": f"url: zip://a.txt::https://me:{PASSWORD}@host/text.zip",
    "sftp": f"url: sftp://me:{PASSWORD}@host/text.txt",
    "token for a user": "url: https://" + "0a1b2c3d4e" * 3 + "@host/text.txt",
    "signed": "url: https://b.s3.host/k?X-Amz-Signature=" + "0a1b2c3d" * 8,
    "shared access": "url: abfs://c@a.host/k?sv=1&sig=" + "a1%2Bb2c3d4",
    "named": f"password: {PASSWORD}",
    "in a flow map": f"options: {{api_key: {PASSWORD}, x: 1}}",
    "of S3's options": f"secret_access_key: '{PASSWORD}'",
}
IN_CODE = {
    "address": f'URI = "postgresql://mlflow:{PASSWORD}@db/mlflow"',
    "named": f'password = "{PASSWORD}"',
    "keyword": f'client(api_key="{PASSWORD}")',
    "header": f'headers = {{"Authorization": "Bearer {PASSWORD}{PASSWORD}"}}',
    "a file of variables": "HF_TOKEN=" + f"{PASSWORD}{PASSWORD}",
    "YAML": f"MLFLOW_TRACKING_PASSWORD: '{PASSWORD}'",
}
ORDINARY = """
sha256: f393d09d07ea4d0e19957838046b3601ad09e0a5bd1c5ad0454240eacff393be
url: https://data.host:8443/a/b@v1.2/text.txt?download=true
url: github://org:repo@v1.2/text.txt
url: s3://bucket/folder/text.parquet
token = tokenizer.encode(text)[0]
end_token: int = 50256
password = os.environ["MLFLOW_TRACKING_PASSWORD"]
parser.add_argument("--password", help="password or token2 of the server")
def connect(user: str, password: str | None = None, api_key: str = "") -> None: ...
uri = f"postgresql://{user}:{password}@{host}/db"
uri = "postgresql://user:password@localhost/db"
uri = "postgresql://mlflow:mlflow@db:5432/mlflow"
POSTGRES_PASSWORD: ${POSTGRES_PASSWORD:?set it}
secret_access_key=credentials.secret_access_key2,
session_token = get_token2(name)
key="train.learning_rate_2", token="<|endoftext|>"
"weights_sha256": "9b1f0e5d7c3a2b4f8e6d1c0a9b8f7e6d5c4b3a2918070605f4e3d2c1b0a99887"
"""


@pytest.mark.parametrize("line", IN_SETTINGS.values(), ids=IN_SETTINGS)
def test_a_secret_in_settings_is_named_by_line_and_never_shown(line: str) -> None:
    (finding,) = find_in_settings("params.yaml", f"fetch:\n  # a comment\n  {line}\n  x: 1\n")
    assert (finding.file, finding.line) == ("params.yaml", 3)
    with pytest.raises(UserError) as refused:
        refuse([finding], "take it out")
    assert "params.yaml: line 3 seems to hold " in str(refused.value)
    assert "take it out" in str(refused.value)
    for secret in (PASSWORD, "0a1b2c3d4e", "a1%2Bb2c3d4"):
        assert secret not in str(refused.value)


@pytest.mark.parametrize("line", IN_CODE.values(), ids=IN_CODE)
def test_a_literal_secret_in_code_is_named(line: str) -> None:
    assert [finding.line for finding in find_in_text("a.py", f"import os\n{line}\n")] == [2]


@pytest.mark.parametrize("token", TOKENS.values(), ids=TOKENS)
def test_tokens_are_named_by_their_kind_in_settings_and_code(token: str) -> None:
    for find in (find_in_settings, find_in_text):
        (finding,) = find("a", f"\nx: {token}\n")
        assert finding.line == 2
        assert token not in str(finding)


def test_values_of_the_environment_are_named_by_their_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef" * 2)
    assert find_in_text("a.py", f"\nlogin('{'0123456789abcdef' * 2}')\n") == [
        Finding("a.py", 2, "the value of WANDB_API_KEY")
    ]


@pytest.mark.parametrize("line", ORDINARY.strip().splitlines(), ids=range(len(ORDINARY.strip().splitlines())))
def test_ordinary_code_passes(line: str) -> None:
    assert find_in_text("a.py", line) == []


def test_ordinary_settings_and_the_code_of_this_project_pass() -> None:
    assert find_in_settings("params.yaml", (ROOT / "params.yaml").read_text(encoding="utf-8")) == []
    for recipe in (ROOT / "benchmarks/recipes").glob("*.yaml"):
        assert find_in_settings(recipe.name, recipe.read_text(encoding="utf-8")) == []
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        if name.startswith("tests/"):  # they make secrets up
            continue
        try:
            text = (ROOT / name).read_text(encoding="utf-8")
        except (UnicodeDecodeError, FileNotFoundError):
            continue
        assert find_in_text(name, text) == []


@given(
    st.from_regex(r"[0-9a-f]{64}", fullmatch=True),
    st.sampled_from(["sha256: {}", "md5: {}", '"{}"', "--hash=sha256:{}"]),
)
def test_hashes_pass(digest: str, line: str) -> None:
    assert find_in_settings("params.yaml", line.format(digest)) == []
    assert find_in_text("requirements.lock", line.format(digest)) == []


@pytest.mark.parametrize("mark", ["# gitleaks:allow", "# pragma: allowlist secret"])
def test_a_person_can_say_that_a_line_holds_none(mark: str) -> None:
    assert find_in_settings("params.yaml", f"url: https://me:{PASSWORD}@host  {mark}") == []
    assert find_in_text("a.py", f'password = "{PASSWORD}"  {mark}') == []


def test_variables_in_settings_pass() -> None:
    assert find_in_settings("params.yaml", "url: https://me:${PASSWORD}@host\nurl: https://me:<password>@host") == []


def git(folder: Path, *arguments: str) -> bytes:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "core.quotePath=false"]
    done = subprocess.run(["git", *identity, *arguments], cwd=folder, capture_output=True, check=True)
    return done.stdout


def test_lines_of_a_patch_have_their_numbers_in_the_file(tmp_path: Path) -> None:
    (tmp_path / "a b").mkdir()
    old = [f"line {number}" for number in range(1, 61)]
    old[39] = f'password = "{PASSWORD}"'
    (tmp_path / "a b/ü.py").write_text("\n".join(old) + "\n", encoding="utf-8")
    (tmp_path / "picture.bin").write_bytes(bytes(range(256)))
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-qm", "start")
    new = [*old[:9], "one more", f'uri = "redis://:{PASSWORD}@h"', *old[9:39], "removed = 1", *old[40:]]
    (tmp_path / "a b/ü.py").write_text("\n".join(new) + "\n", encoding="utf-8")
    (tmp_path / "picture.bin").write_bytes(bytes(range(255, -1, -1)) * 40)
    (tmp_path / "new.env").write_text(f"A=1\nHF_TOKEN={PASSWORD}{PASSWORD}\n", encoding="utf-8")
    git(tmp_path, "add", "-N", "new.env")
    patch = git(tmp_path, "diff", "--binary", "HEAD")
    assert b"GIT binary patch" in patch
    assert [(finding.file, finding.line) for finding in find_in_patch(patch)] == [
        ("a b/ü.py", 11),
        ("a b/ü.py", 40),  # of the file before: the patch shows what it removes
        ("new.env", 2),
    ]


def test_many_findings_are_cut_to_a_number() -> None:
    with pytest.raises(UserError, match="and 5 more lines"):
        refuse([Finding("a", number, "a key") for number in range(1, 26)], "take it out")
    refuse([], "nothing to do")
