"""Encodings that tiktoken knows by name, as o200k_base: from its cache, or from where their authors serve them.

tiktoken compares what it brings with a hash of its own. Ids that an encoding leaves free become special tokens with names of their
own, so that every id of a model has a token.
"""

from typing import NamedTuple

import tiktoken
from requests import RequestException

from gpt.errors import UserError


class Published(NamedTuple):
    """What tiktoken makes an encoding of."""

    pattern: str
    ranks: dict[bytes, int]
    special_tokens: dict[str, int]


def read_published(name: str) -> Published:
    """Return an encoding of tiktoken, or of a plugin of it; raise `UserError` if there is none, or it cannot be brought."""
    where = f"params.yaml: tokenizer.encoding = {name}"
    if name not in (known := tiktoken.list_encoding_names()):
        raise UserError(f"{where}: tiktoken has no such encoding; it has {', '.join(sorted(known))}")
    try:
        encoding = tiktoken.get_encoding(name)
    except (RequestException, ImportError, OSError, ValueError) as error:
        raise UserError(
            f"{where}: is not in tiktoken's cache and cannot be brought ({' '.join(str(error).split())[:200]}); where there is a"
            f" network, set TIKTOKEN_CACHE_DIR to a folder, run `python -c 'import tiktoken; tiktoken.get_encoding(\"{name}\")'`,"
            " and bring that folder here"
        ) from None
    # Private, but for twenty versions the only way to an encoding's parts; its own documentation extends encodings so.
    ranks = encoding._mergeable_ranks
    # o200k_harmony has an id with two names: the first one stays, or there would be more names than ids.
    by_id = {number: name for name, number in reversed(encoding._special_tokens.items())}
    special = {name: number for name, number in encoding._special_tokens.items() if by_id[number] == name}
    free = set(range(encoding.n_vocab)) - set(special.values()) - set(ranks.values())
    special |= {f"<|unused_{number}|>": number for number in sorted(free)}
    return Published(encoding._pat_str, ranks, special)
