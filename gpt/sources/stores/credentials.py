"""Who asks for a source: user and password from ~/.netrc, since none may stand in params.yaml."""

import base64
import netrc
import os
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from fsspec.config import conf

from gpt.errors import UserError

WHERE = (
    'a login comes from ~/.netrc, or a token from FSSPEC_HTTPS=\'{"headers": {"Authorization": "Bearer TOKEN"}}\','
    " never from params.yaml"
)


def login(url: str) -> dict[str, Any]:
    """Return, as options of fsspec, the login that ~/.netrc has for a web address, as curl, git and pip take it.

    Nothing if there is none, or if the user has given headers by FSSPEC_HTTP or FSSPEC_HTTPS. It is not sent on to another
    host that the server may redirect to.
    Raises `UserError` if the file is in another form, or is named by NETRC and cannot be read.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or "headers" in conf.get(parts.scheme, {}):
        return {}
    named = os.environ.get("NETRC")
    file = Path(named or "~/.netrc")
    try:
        file = file.expanduser()
        found = netrc.netrc(file).authenticators(parts.hostname or "")
    except netrc.NetrcParseError:  # its message may repeat a password
        raise UserError(f"{file}: not in the form of a netrc file; correct it, or set NETRC") from None
    except (OSError, RuntimeError, UnicodeDecodeError) as error:  # RuntimeError: the user has no home
        if not named:  # a public source needs none
            return {}
        raise UserError(f"{file}: cannot be read ({error}); correct it, or set NETRC") from None
    if found is None:
        return {}
    user, _, password = found
    encoded = base64.b64encode(f"{user}:{password}".encode()).decode()
    return {"headers": {"Authorization": f"Basic {encoded}"}}
