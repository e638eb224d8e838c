"""The trainer of retrain_and_slim, from a compiled component."""

from __future__ import annotations

import re
from pathlib import Path

import requests
import yaml
from kfp import components
from kfp.dsl import base_component

from tfslim_core.errors import DataError, UsageError
from tfslim_core.redacting import without_secrets


def loaded(place: str) -> base_component.BaseComponent:
    """The component that a file, or an address of one, describes.

    Raises:
        UsageError: there is none, or it cannot be fetched. DataError: it is no component.
    """
    try:
        if re.match("https?://", place):
            return components.load_component_from_url(place)
        return components.load_component_from_file(str(Path(place)))
    except OSError as error:  # those of requests are too
        response = getattr(error, "response", None)
        why = f"HTTP {response.status_code}" if isinstance(response, requests.Response) else error.strerror or error
        raise UsageError(
            f"--trainer {without_secrets(place)}: {why if not isinstance(why, Exception) else type(why).__name__}"
        ) from None
    except (ValueError, TypeError, KeyError, AttributeError, NotImplementedError, yaml.YAMLError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"--trainer {without_secrets(place)}: not a component that kfp can load: {first}") from None
