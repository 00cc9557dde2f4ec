"""Files of hub repositories ``hf:owner/name[@revision]``: from the local cache where they are there already, else the network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tokenizers_mm.cards import HUB
from tokenizers_mm.weights import CONFIG, INDEX, WEIGHTS, shards


def hub_folder(source: str) -> Path:
    """The folder with a repository's configuration and weights; errors as :func:`hub_file`."""
    hub_file(source, WEIGHTS)
    return hub_file(source, CONFIG).parent


def hub_file(source: str, name: str) -> Path:
    """A file of ``hf:owner/name[@revision]``, from the local cache where it is there already."""
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    repo, _, revision = source.removeprefix(HUB).partition("@")
    try:
        cached = try_to_load_from_cache(repo, name, revision=revision or None)
        return Path(cached if isinstance(cached, str) else hf_hub_download(repo, name, revision=revision or None))
    except HFValidationError as error:
        raise ValueError(f"source must be 'hf:owner/name[@revision]', got {source!r}: {error}") from None
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise FileNotFoundError(
            f"{name} of {source} is neither in the local hub cache nor can it be downloaded ({type(error).__name__}). "
            f"Where there is a network: `hf download {repo} {CONFIG} {WEIGHTS} --local-dir FOLDER`, then load FOLDER"
        ) from None


def hub_weights(source: str, parts: Sequence[str]) -> Path:
    """The weights in a repository: its one file, or the index of those of its shards that have something of ``parts``.

    Raises:
        FileNotFoundError: If they are neither cached nor to be had; the message is that of the single file.
    """
    try:
        return hub_file(source, WEIGHTS)
    except FileNotFoundError as error:
        if not parts:
            raise
        missing = error
    try:
        index = hub_file(source, INDEX)
        for name in shards(index, parts):
            hub_file(source, name)
    except FileNotFoundError:
        raise missing from None
    return index
