"""The text of a file for TensorFlow Serving's --model_config_file."""

from __future__ import annotations

import re

from tfslim_core.errors import UsageError

_CONFIG = """\
model_config_list {{
  config {{
    name: {name}
    base_path: {base}
    model_platform: "tensorflow"
    model_version_policy {{
      latest {{
        num_versions: 1
      }}
    }}
  }}
}}
"""


def model_config_text(base: str, name: str | None = None) -> str:
    """Have a server poll a base and serve its highest version. name: the model's; the base's last part unless told.

    Raises:
        UsageError: there is no name, or what is given is not UTF-8.
    """
    chosen = name if name is not None else re.split("/+", base.rstrip("/"))[-1]
    if not chosen or "/" in chosen:
        raise UsageError(f"{chosen!r} cannot be the name of a model in a request; give --model-name NAME")
    return _CONFIG.format(name=_quoted(chosen), base=_quoted(base))


def _quoted(text: str) -> str:
    """A string as the text format of protocol buffers has it."""
    try:
        data = text.encode()
    except UnicodeEncodeError:
        raise UsageError(f"{text!a} is not UTF-8, as all text in a server's config has to be") from None
    plain = {ord('"'): '\\"', ord("\\"): "\\\\"}
    return '"' + "".join(plain.get(b, chr(b) if 32 <= b < 127 else f"\\{b:03o}") for b in data) + '"'
