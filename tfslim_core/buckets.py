"""Files in Google Cloud Storage: copied to local disk before they are read, and from it once they are whole.

TensorFlow's and Beam's own gs:// wait for a metadata server and check little; here every copy is compared by its
CRC32C, a connection that drops is tried again from where it was (google-cloud-storage's retries, up to `DEADLINE`
seconds), and an object that is there is never replaced by accident (generation preconditions).
"""

from __future__ import annotations

import base64
import errno
import os
import re
import tempfile
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from glob import has_magic
from pathlib import Path
from typing import Any

from tfslim_core.errors import OutputExistsError, StorageError

DEADLINE = 120.0  # seconds that one request is tried for
_THREADS = 8
_CHUNK = 32 << 20  # a larger object is read in parts at once; an upload is resumed at multiples of it
_TOKEN = "tfslim-upload"
_LOG_IN = "run gcloud auth application-default login, or set GOOGLE_APPLICATION_CREDENTIALS to a key file"
# In messages of the libraries: "403 PUT https://…: no" and "Max retries exceeded with url: /… (Caused by …)".
_URL = re.compile(r"[A-Z]+ https?://\S+: | with url: \S+")
# Files that make a directory count as one, uploaded when all others are there.
MARKERS = ("manifest.json", "saved_model.pb", "verdict.json", "model.tflite")

Copied = Callable[[int, int], None]
"""Told the bytes copied so far, and of how many."""


@dataclass(frozen=True)
class Address:
    """gs://bucket/name; the name has no slash at its ends and may be a prefix that stands for a directory."""

    bucket: str
    name: str

    def __str__(self) -> str:
        return f"gs://{self.bucket}/{self.name}"

    def __truediv__(self, part: str) -> Address:
        return Address(self.bucket, f"{self.name}/{part}" if self.name else part)

    @property
    def folder(self) -> Address:
        """What a copy's names are relative to: all before the last part, or before the first that is a pattern."""
        parts = self.name.split("/")
        end = next((index for index, part in enumerate(parts) if has_magic(part)), len(parts) - 1)
        return Address(self.bucket, "/".join(parts[:end]))


def address_of(path: str | os.PathLike[str]) -> Address | None:
    """The address that a text or path names, or None for a local one. A Path has made "gs:/" of "gs://".

    Raises:
        StorageError: it names no bucket.
    """
    found = re.match(r"gs:/+", text := os.fspath(path))
    if not found:
        return None
    bucket, _, name = text[found.end() :].partition("/")
    if not bucket:
        raise StorageError(f"{text} names no bucket; give gs://BUCKET/NAME")
    if not re.fullmatch("[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?", bucket):
        raise StorageError(f"{text}: {bucket!r} cannot be the name of a bucket; give gs://BUCKET/NAME")
    return Address(bucket, re.sub("/+", "/", name).strip("/"))


def exists(address: Address) -> bool:
    """Whether there is an object of this name, or one below it.

    Raises:
        StorageError: the bucket cannot be asked.
    """
    with _told(address):
        bucket = _client().bucket(address.bucket)
        if address.name and bucket.blob(address.name).exists(retry=_retry()):
            return True
        return any(_client().list_blobs(address.bucket, prefix=_prefix(address), max_results=1, retry=_retry()))


def download(address: Address, folder: Path, progress: Copied | None = None) -> Path:
    """Copy an object, or all that is below its name, into a local folder; the path of the copy.

    A name with *, ? or [ that no object has is a pattern, with ** for any folders; the path is then that pattern, below
    the folder.

    Raises:
        StorageError: there is nothing, it cannot be read, or a name would lead out of the folder.
    """
    with _told(address):
        found = _matching(address)
        if not found:
            raise StorageError(f"{address}: there is no such object, and none below it")
        start = len(_prefix(address.folder))
        places = {blob: _inside(folder, blob.name[start:], address) for blob in found}
        total = sum(blob.size or 0 for blob in found)
        done = 0
        for place in places.values():
            place.parent.mkdir(parents=True, exist_ok=True)
        for blob in _all_at_once(_download_one, places.items()):
            done += blob.size or 0
            if progress:
                progress(done, total)
        return folder / address.name[start:]


def upload(source: Path, address: Address, *, overwrite: bool = False, progress: Copied | None = None) -> None:
    """Copy a file or directory to a name that is free. What makes a directory count comes last; if something fails,
    what was copied is deleted.

    overwrite: replace an object of that name; a directory is never replaced, since a reader could see half of each.

    Raises:
        OutputExistsError: there is something of that name.
        StorageError: it cannot be written, or what was written differs.
    """
    with _told(address):
        if source.is_dir():
            if exists(address):
                more = "; a directory in a bucket is never replaced: choose another name" if overwrite else ""
                raise OutputExistsError(f"{address} already exists{more}")
            files = sorted(path for path in source.rglob("*") if path.is_file())
            named = {path: address / _object_name(path.relative_to(source)) for path in files}
        else:
            named = {source: address}
        _upload_all(named, overwrite and source.is_file(), progress)


def _object_name(path: Path) -> str:
    name = path.as_posix()
    try:
        name.encode()
    except UnicodeEncodeError:
        raise StorageError(f"the file name {name!a} is not UTF-8, as all names in a bucket are; rename it") from None
    return name


def _upload_all(named: Mapping[Path, Address], overwrite: bool, progress: Copied | None) -> None:
    total, done = sum(path.stat().st_size for path in named), 0
    last = [path for path in named if path.name in MARKERS]
    made: list[Address] = []
    try:
        for group in (
            [(p, a, overwrite) for p, a in named.items() if p not in last],
            *([(p, named[p], overwrite)] for p in last),
        ):
            for place, size in _all_at_once(_upload_one, group):
                made.append(place)
                done += size
                if progress:
                    progress(done, total)
    except BaseException:
        for place in made:
            with suppress(Exception):
                _client().bucket(place.bucket).blob(place.name).delete(retry=_retry())
        raise


@dataclass(frozen=True)
class Entry:
    """An object below an address. changed: seconds since 1970."""

    name: str
    size: int
    crc32c: str
    changed: float


def entries(address: Address) -> dict[str, Entry]:
    """All objects below an address, by the rest of their name; that is empty or ends in a slash where a console has
    made an object for a folder.

    Raises:
        StorageError: the bucket cannot be read.
    """
    with _told(address):
        start = len(_prefix(address))
        blobs = _client().list_blobs(address.bucket, prefix=_prefix(address), retry=_retry())
        return {
            blob.name[start:]: Entry(blob.name, blob.size or 0, blob.crc32c, blob.updated.timestamp()) for blob in blobs
        }


def read(address: Address) -> bytes:
    """The content of a small object; empty where it is not there.

    Raises:
        StorageError: it cannot be read.
    """
    from google.api_core.exceptions import NotFound

    with _told(address):
        try:
            content: bytes = _client().bucket(address.bucket).blob(address.name).download_as_bytes(retry=_retry())
        except NotFound:
            return b""
        return content


def claim(address: Address, content: str) -> bool:
    """Make an object that is not there yet, so that of several who try one succeeds; whether it was this one.

    Raises:
        StorageError: it cannot be written.
    """
    from google.api_core.exceptions import PreconditionFailed

    with _told(address):
        blob = _client().bucket(address.bucket).blob(address.name)
        token = uuid.uuid4().hex
        blob.metadata = {_TOKEN: token}
        try:
            blob.upload_from_string(content, "application/json", if_generation_match=0, retry=_retry())
        except PreconditionFailed:
            blob.reload(retry=_retry())
            return bool((blob.metadata or {}).get(_TOKEN) == token)
        return True


def copy(source: Address, target: Address) -> None:
    """Copy an object within the storage; what is there is replaced, so that a copy that was cut off can be made again.

    Raises:
        StorageError: it cannot be copied, or the copy differs.
    """
    with _told(source):
        client = _client()
        blob = client.bucket(source.bucket).get_blob(source.name, retry=_retry())
        if blob is None:
            raise StorageError(f"{source}: there is no such object")
        made = client.bucket(target.bucket).blob(target.name)
        token, _, _ = made.rewrite(blob, retry=_retry())
        while token:
            token, _, _ = made.rewrite(blob, token=token, retry=_retry())
        made.reload(retry=_retry())
        if made.crc32c != blob.crc32c:
            raise StorageError(f"{target}: the copy has another checksum; try again")


def copy_all(pairs: Iterable[tuple[Address, Address]]) -> None:
    """Copy objects within the storage, several at once, as `copy` does.

    Raises:
        StorageError: one cannot be copied, or a copy differs.
    """
    for _ in _all_at_once(copy, pairs):
        pass


def read_all(addresses: Iterable[Address]) -> list[bytes]:
    """The contents of small objects, in order, as `read` gives them; several are read at once.

    Raises:
        StorageError: one cannot be read.
    """
    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(read, addresses))


def delete(addresses: Iterable[Address]) -> None:
    """Delete objects; those that are not there do not matter.

    Raises:
        StorageError: one cannot be deleted.
    """
    from google.api_core.exceptions import NotFound

    for address in addresses:
        with _told(address), suppress(NotFound):
            _client().bucket(address.bucket).blob(address.name).delete(retry=_retry())


def crc32c(path: Path) -> str:
    """The CRC32C of a file, as Cloud Storage writes it: base64 of its 4 bytes, the highest first."""
    import google_crc32c

    checksum = google_crc32c.Checksum()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            checksum.update(block)
    return base64.b64encode(checksum.digest()).decode()


def _matching(address: Address) -> list[Any]:
    """The objects that an address stands for; those that consoles make for folders, "a/", are none."""
    client = _client()
    one = client.bucket(address.bucket).get_blob(address.name, retry=_retry()) if address.name else None
    if one is not None:
        return [one]
    blobs = client.list_blobs(address.bucket, prefix=_prefix(address), retry=_retry())
    found = [blob for blob in blobs if not blob.name.endswith("/")]
    if found or not has_magic(address.name):
        return found
    fixed = re.split(r"[*?\[]", address.name)[0]
    blobs = client.list_blobs(address.bucket, prefix=fixed, retry=_retry())
    pattern = address.name.split("/")
    return [blob for blob in blobs if not blob.name.endswith("/") and _fits(blob.name.split("/"), pattern)]


def _fits(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether a name is meant by a pattern, as `glob.glob` does it: ** is for any folders, and dots are named."""
    if not parts or not pattern:
        return not parts and (not pattern or pattern == ["**"])
    hidden = parts[0].startswith(".") and not pattern[0].startswith(".")
    if pattern[0] == "**":
        return _fits(parts, pattern[1:]) or (not hidden and _fits(parts[1:], pattern))
    return not hidden and fnmatchcase(parts[0], pattern[0]) and _fits(parts[1:], pattern[1:])


def _prefix(address: Address) -> str:
    return f"{address.name}/" if address.name else ""


def _inside(folder: Path, name: str, address: Address) -> Path:
    """Where an object goes; a bucket may hold any name."""
    parts = name.split("/")
    if not name or any(part in ("", ".", "..") or "\0" in part for part in parts):
        raise StorageError(f"{address}: the object name {name!r} would lead out of the folder that it is copied to")
    return folder.joinpath(*parts)


def _all_at_once(work: Callable[..., Any], arguments: Iterable[Sequence[Any]]) -> Iterator[Any]:
    """The results of calls in several threads, as they come; the first error stops those that have not begun."""
    with ThreadPoolExecutor(_THREADS) as pool:
        futures = [pool.submit(work, *one) for one in arguments]
        try:
            for future in as_completed(futures):
                yield future.result()
        finally:
            for future in futures:
                future.cancel()


def _download_one(blob: Any, target: Path) -> Any:
    from google.cloud.storage import transfer_manager

    wanted = blob.crc32c  # as it was listed: an answer with another generation changes it
    if (blob.size or 0) > _CHUNK:
        transfer_manager.download_chunks_concurrently(
            blob, str(target), chunk_size=_CHUNK, worker_type=transfer_manager.THREAD, max_workers=_THREADS
        )
    else:
        blob.download_to_filename(str(target), checksum="crc32c", retry=_retry())
    if wanted and wanted != crc32c(target):
        raise StorageError(
            f"gs://{blob.bucket.name}/{blob.name}: the copy has another checksum; was it replaced? try again"
        )
    return blob


def _upload_one(source: Path, address: Address, overwrite: bool) -> tuple[Address, int]:
    from google.api_core.exceptions import PreconditionFailed

    blob = _client().bucket(address.bucket).blob(address.name, chunk_size=_CHUNK)
    token = uuid.uuid4().hex
    blob.metadata = {_TOKEN: token}
    try:
        blob.upload_from_filename(
            str(source), if_generation_match=None if overwrite else 0, checksum="crc32c", retry=_retry()
        )
    except PreconditionFailed:
        blob.reload(retry=_retry())
        # The answer to the first try may have been lost, and the second found its own object there.
        if (blob.metadata or {}).get(_TOKEN) != token:
            raise OutputExistsError(f"{address} already exists") from None
    blob.reload(retry=_retry())
    wanted = crc32c(source)
    if blob.crc32c != wanted:
        raise StorageError(f"{address}: what arrived has the checksum {blob.crc32c}, not {wanted}; try again")
    return address, source.stat().st_size


@cache
def _client() -> Any:
    """One client for all threads; no credentials are asked for where an emulator is named."""
    from google.auth.exceptions import GoogleAuthError
    from google.cloud import storage

    if os.environ.get("STORAGE_EMULATOR_HOST"):
        return storage.Client.create_anonymous_client()
    try:
        return storage.Client(project=None)  # objects need none, and a user's credentials name none
    except (GoogleAuthError, OSError, ValueError, AttributeError):  # the last for a key file of other JSON
        raise StorageError(f"gs://: {_no_credentials()}") from None


def _no_credentials() -> str:
    """Why there are none; nothing of what a key file holds."""
    key = os.environ.get("GOOGLE_APPLICATION_CREDENTIALS")
    if not key:
        return f"there are no Google credentials here; {_LOG_IN}"
    if not os.path.isfile(key):  # it may be the key itself, put there by mistake
        return "GOOGLE_APPLICATION_CREDENTIALS is set, and is not the path of a key file that is there"
    return f"GOOGLE_APPLICATION_CREDENTIALS names {key}, which holds no key of Google's that can be read; get a new one"


def _retry() -> Any:
    from google.cloud.storage.retry import DEFAULT_RETRY

    return DEFAULT_RETRY.with_timeout(DEADLINE)


@contextmanager
def _told(address: Address) -> Iterator[None]:
    """Errors of the libraries as one line.

    Raises:
        StorageError: something went wrong.
    """
    from google.api_core.exceptions import Forbidden, GoogleAPIError, NotFound, Unauthorized
    from google.auth.exceptions import GoogleAuthError, RefreshError
    from google.cloud.storage.exceptions import DataCorruption
    from requests.exceptions import JSONDecodeError, RequestException

    try:
        yield
    except NotFound:
        raise StorageError(f"{address}: there is no such bucket or object") from None
    except (Forbidden, Unauthorized) as error:
        raise StorageError(f"{address}: this is forbidden; ask for access to the bucket ({_short(error)})") from None
    except RefreshError as error:
        raise StorageError(f"{address}: the Google credentials do not work; {_LOG_IN} ({_short(error)})") from None
    except JSONDecodeError:
        raise StorageError(f"{address}: this is not Cloud Storage's answer; is a proxy between?") from None
    except DataCorruption:
        raise StorageError(f"{address}: what arrived has another checksum than what was sent; try again") from None
    except (GoogleAPIError, GoogleAuthError, RequestException) as error:
        raise StorageError(f"{address}: {_short(error)}") from None
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        more = f"; copies are made in {tempfile.gettempdir()}, unless TMPDIR names another place" if full else ""
        raise StorageError(f"{address}: {error.strerror or error}{where}{more}") from None


def _short(error: BaseException) -> str:
    """What went wrong, without the URL, which is long; that of an upload lets whoever has it write there."""
    cause = getattr(error, "cause", None) or error
    text = _URL.sub("", " ".join(str(cause).split()))
    return text if len(text) <= 300 else text[:297] + "..."
