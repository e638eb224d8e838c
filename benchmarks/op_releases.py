"""Which TensorFlow release first knew each op, attribute and value: makes tfslim_core/compatibility/op_releases.json.

    python -m benchmarks.op_releases          the table anew, out of released wheels (about 6 GB to fetch, 20 minutes)

Each release's own registry is asked, through the C API in its wheel's libraries: one child process a release, since no
two of them fit into one. Wheels are asked for by version with pip, whatever Python they were built for: their
libraries are loaded, their Python code is not run. Needs a C compiler: older ones look for a variable of CPython that
newer interpreters lack.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

TABLE = Path(__file__).parents[1] / "tfslim_core/compatibility/op_releases.json"
CACHE = Path(__file__).parents[1] / ".cache/op_releases"
# package, version, and a Python that it has wheels for; the last patch of each release, without GPU code where it is.
# Releases before 1.3 have no C function that lists ops.
WHEELS = (
    *(("tensorflow", version, "3.6") for version in ("1.3.0", "1.4.1", "1.5.1", "1.6.0", "1.7.1", "1.8.0", "1.9.0")),
    *(("tensorflow", version, "3.6") for version in ("1.10.1", "1.11.0", "1.12.3", "1.13.2", "1.14.0")),
    ("tensorflow-cpu", "1.15.0", "3.7"),
    ("tensorflow", "2.0.4", "3.6"),
    *(
        ("tensorflow-cpu", version, "3.7")
        for version in ("2.1.4", "2.2.3", "2.3.4", "2.4.4", "2.5.3", "2.6.5", "2.7.4")
    ),
    *(("tensorflow-cpu", version, "3.7") for version in ("2.8.4", "2.9.3", "2.10.1", "2.11.0")),
    *(("tensorflow-cpu", version, "3.11") for version in ("2.12.1", "2.13.1", "2.14.1", "2.15.1", "2.16.2", "2.17.1")),
    *(("tensorflow-cpu", version, "3.11") for version in ("2.18.1", "2.19.1", "2.20.0", "2.21.0")),
)
_PLATFORMS = ("manylinux1", "manylinux2010", "manylinux2014", "manylinux_2_17", "manylinux_2_27")
_LIBRARIES = (
    "libtensorflow_framework.so",
    "libtensorflow_cc.so",
    "_pywrap_tensorflow_common.so",
    "_tensorflow_internal.so",
)
_MOST_DTYPES = 40
_RECURSION_LIMIT = "int _Py_CheckRecursionLimit = 1000;"  # read by extensions built for Python up to 3.8

Registries = Mapping[str, Mapping[str, Any]]  # release -> op -> OpDef


def main() -> None:
    """Fetch what is not in the cache, ask each release, and write the table."""
    from tensorflow.core.framework import op_def_pb2, versions_pb2

    registries: dict[str, Mapping[str, Any]] = {}
    producers: dict[str, int] = {}
    sizes: dict[str, list[int]] = {}
    for package, version, python in WHEELS:
        release = ".".join(version.split(".")[:2])
        told = CACHE / f"{release}.json"
        if not told.exists():
            _ask(package, version, python, told)
        answer = json.loads(told.read_text())
        ops = op_def_pb2.OpList.FromString(bytes.fromhex(answer["ops"])).op
        registries[release] = {op.name: op for op in ops}
        versions = versions_pb2.VersionDef.FromString(bytes.fromhex(answer["versions"]))
        producers[release] = versions.producer or answer["header"]
        sizes[release] = answer["sizes"]
        print(f"{release}: {len(ops):,} ops, producer {producers[release]}")
    TABLE.write_text(rendered(table(registries, producers, sizes)))


def table(registries: Registries, producers: Mapping[str, int], sizes: Mapping[str, list[int]]) -> dict[str, Any]:
    """What op_releases.json holds; releases in order, the newest last. sizes: of dtypes, 0 where it knows none such."""
    from tensorflow.core.framework import types_pb2

    releases = list(registries)
    dtypes = {}
    for number in range(1, _MOST_DTYPES):
        names = types_pb2.DataType.keys()
        name = next((key for key in names if types_pb2.DataType.Value(key) == number), None)
        since = _since(releases, lambda release: sizes[release][number - 1] > 0)  # noqa: B023  # called at once
        if name is not None and since not in (None, releases[0]):
            dtypes[name] = since
    newest = registries[releases[-1]]
    ops = {name: _op(definition, registries, dtypes) for name, definition in sorted(newest.items())}
    return {"releases": dict(producers), "dtypes": dtypes, "ops": ops}


def rendered(content: Mapping[str, Any]) -> str:
    """As JSON with a line for each op, so that a newer release shows as a readable diff."""
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(entry)}" for name, entry in content["ops"].items())
    head = ",\n".join(f'"{key}": {json.dumps(content[key])}' for key in ("releases", "dtypes"))
    return f'{{{head},\n"ops": {{\n{lines}\n}}}}\n'


def _since(releases: list[str], holds: Any) -> str | None:
    """The first release from which on `holds(release)` has been true up to the newest."""
    found = None
    for release in reversed(releases):
        if not holds(release):
            break
        found = release
    return found


def _op(definition: Any, registries: Registries, dtypes: Mapping[str, str]) -> dict[str, Any]:
    """One op's entry: `since`, and what of it is newer than that, and than a dtype as such."""
    releases, name = list(registries), definition.name
    known = lambda release: registries[release].get(name)  # noqa: E731
    since = _since(releases, lambda r: known(r) is not None and _same_where_both_apply(known(r), definition))
    assert since is not None
    later = releases[releases.index(since) :]
    attributes, values = {}, {}
    for attribute in definition.attr:
        of = {release: _attribute(known(release), attribute.name) for release in later}
        first = _since(later, lambda r: of[r] is not None and of[r].type == attribute.type)  # noqa: B023
        assert first is not None
        if first != since:
            attributes[attribute.name] = first
        after = later[later.index(first) :]
        newer = {
            value: found
            for value in _values(attribute, [of[release] for release in after])
            if (found := _since(after, lambda r: _allows(of[r], value))) != first  # noqa: B023
            and releases.index(found) > releases.index(dtypes.get(value, since))
        }
        if newer:
            values[attribute.name] = newer
    entry: dict[str, Any] = {"since": since}
    return entry | ({"attributes": attributes} if attributes else {}) | ({"values": values} if values else {})


def _same_where_both_apply(old: Any, new: Any) -> bool:
    """Whether a node that the older definition takes means the same there: arguments, defaults, attributes needed."""
    before, after = {a.name: a for a in old.attr}, {a.name: a for a in new.attr}
    for name, attribute in before.items():
        default = attribute.HasField("default_value")
        if name not in after:
            if not default:
                return False
        elif after[name].HasField("default_value") and (
            not default or attribute.default_value != after[name].default_value
        ):
            return False
    return _arguments(old, before, after) == _arguments(new, before, after)


def _arguments(definition: Any, before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Any]:
    """What goes in and comes out, attributes that the older definition lacks being at their defaults."""

    def dtype(argument: Any) -> Any:
        if argument.type_attr and argument.type_attr not in before:
            return after[argument.type_attr].default_value.type
        return argument.type or argument.type_attr

    return [
        [(dtype(a), a.number_attr, a.type_list_attr, a.is_ref) for a in arguments]
        for arguments in (definition.input_arg, definition.output_arg)
    ]


def _attribute(definition: Any, name: str) -> Any | None:
    return next((attribute for attribute in definition.attr if attribute.name == name), None)


def _values(attribute: Any, history: Iterable[Any]) -> list[str]:
    """The values of an attribute that some release did not allow."""
    from tensorflow.core.framework import types_pb2

    if attribute.type == "int":
        lowest = [one.minimum if one.has_minimum else -(2**63) for one in history]
        return [str(value) for value in range(min(lowest), max(lowest))] if max(lowest) - min(lowest) < 100 else []
    kinds = {"type": "type", "list(type)": "type", "string": "s", "list(string)": "s"}
    if attribute.type not in kinds:
        return []
    if not attribute.HasField("allowed_values"):
        dtypes = [name for name in types_pb2.DataType.keys()[1:] if not name.endswith("_REF")]
        return dtypes if kinds[attribute.type] == "type" else []
    listed = getattr(attribute.allowed_values.list, kinds[attribute.type])
    return [types_pb2.DataType.Name(v) if kinds[attribute.type] == "type" else v.decode() for v in listed]


def _allows(attribute: Any, value: str) -> bool:
    from tensorflow.core.framework import types_pb2

    if attribute.type == "int":
        return not attribute.has_minimum or int(value) >= attribute.minimum
    if not attribute.HasField("allowed_values"):
        return True
    listed = attribute.allowed_values.list
    return value.encode() in listed.s or value in [types_pb2.DataType.Name(number) for number in listed.type]


def _ask(package: str, version: str, python: str, told: Path) -> None:
    """Fetch one wheel, and write what its registry tells."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        fetch(package, version, python, Path(folder))
        subprocess.run([sys.executable, "-m", "benchmarks.op_releases", folder, told], check=True)


def fetch(package: str, version: str, python: str, folder: Path) -> None:
    """Put what is needed of a wheel into a folder."""
    platforms = [word for name in _PLATFORMS for word in ("--platform", f"{name}_x86_64")]
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"),
            *("--implementation", "cp", "--python-version", python, *platforms),
            *("--dest", folder, f"{package}=={version}"),
        ],
        check=True,
    )
    wheel = next(folder.glob("*.whl"))
    unpack(wheel, folder)
    wheel.unlink()
    (folder / "python.c").write_text(_RECURSION_LIMIT)
    subprocess.run(["cc", "-shared", "-o", folder / "python.so", folder / "python.c"], check=True)


def unpack(wheel: Path, folder: Path) -> None:
    """The shared libraries of a wheel, and the header that numbers the release, where it has them."""
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            library = ".so" in Path(name).name and any(part in name for part in _LIBRARIES)
            if library or name.endswith("core/public/version.h"):
                archive.extract(name, folder)


class _Buffer(ctypes.Structure):
    """TF_Buffer."""

    _fields_ = (("data", ctypes.c_void_p), ("length", ctypes.c_size_t), ("free", ctypes.c_void_p))


def libraries(folder: Path) -> list[ctypes.CDLL]:
    """Load the libraries below a folder; in a child of its own, since no two releases fit into one process."""
    ctypes.CDLL(str(folder / "python.so"), mode=ctypes.RTLD_GLOBAL)
    loaded = []
    for part in _LIBRARIES:
        for file in sorted(path for path in folder.rglob("*.so*") if part in path.name):
            try:
                loaded.append(ctypes.CDLL(str(file), mode=os.RTLD_LAZY | os.RTLD_GLOBAL))
            except OSError as error:  # Python's part of a newer one, whose C API is in the others
                print(f"{file.name}: {error}", file=sys.stderr)
    return loaded


def _tell(folder: Path, told: Path) -> None:
    """In the child: write what the libraries below `folder` say."""
    loaded = libraries(folder)
    tf = next(library for library in reversed(loaded) if hasattr(library, "TF_GetAllOpList"))
    for name in ("TF_GetAllOpList", "TF_NewBuffer"):
        getattr(tf, name).restype = ctypes.POINTER(_Buffer)
    for name in ("TF_NewGraph", "TF_NewStatus"):
        getattr(tf, name).restype = ctypes.c_void_p
    tf.TF_DataTypeSize.restype = ctypes.c_size_t
    ops, versions = tf.TF_GetAllOpList(), tf.TF_NewBuffer()
    if hasattr(tf, "TF_GraphVersions"):
        tf.TF_GraphVersions(ctypes.c_void_p(tf.TF_NewGraph()), versions, ctypes.c_void_p(tf.TF_NewStatus()))
    answer = {
        "ops": _bytes(ops).hex(),
        "versions": _bytes(versions).hex(),
        "header": _in_header(folder),
        "sizes": [tf.TF_DataTypeSize(number) for number in range(1, _MOST_DTYPES)],
    }
    told.write_text(json.dumps(answer))
    sys.stdout.flush()
    os._exit(0)  # what an old library does at exit is of no interest


def _in_header(folder: Path) -> int:
    """What a release writes into graphs, by its header: before 1.5 there is no C function that tells."""
    texts = [path.read_text() for path in folder.rglob("version.h")]
    found = [re.search(r"^#define TF_GRAPH_DEF_VERSION (\d+)", text, re.MULTILINE) for text in texts]
    return next((int(match[1]) for match in found if match), 0)


def _bytes(buffer: Any) -> bytes:
    return ctypes.string_at(buffer.contents.data, buffer.contents.length) if buffer.contents.length else b""


if __name__ == "__main__":
    if len(sys.argv) == 3:
        _tell(Path(sys.argv[1]), Path(sys.argv[2]))
    else:
        main()
