"""Several bundles as tag sets of one SavedModel: each answers as it did alone, equal weights are stored once."""

import pytest
import tensorflow as tf

from tests.saved_models import assert_alike, in_python, in_session, interface, normal, save_v1, served, tf1
from tfslim_core import api, storage
from tfslim_core.errors import ModelError, UsageError
from tfslim_core.saved_model import join

X = normal(4, 90)
REQUEST = [("serving_default", {"x": X})]
BOTH = (("serve",), ("gpu", "serve"))


def vocabulary(lookup, words):
    index = lookup.TextFileIndex
    return lookup.TextFileInitializer(words, tf.string, index.WHOLE_LINE, tf.int64, index.LINE_NUMBER)


def model(path, tags, head=0, words=None, extra=None):
    """A body that all have, and a head of its own; a table of words from a file."""

    def build():
        x = tf1.placeholder(tf.float32, [None, 90], "x")
        body = tf1.get_variable("body", initializer=normal(90, 80))
        own = tf1.get_variable("head", initializer=normal(80, 70, seed=head))
        outputs = {"y": tf.matmul(tf.nn.relu(tf.matmul(x, body)), own) / 100}
        if words:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = path.parent / "words.txt"
            file.write_text(words)
            table = tf1.lookup.StaticHashTable(vocabulary(tf1.lookup, str(file)), -1)
            outputs["found"] = table.lookup(tf.fill([tf.shape(x)[0]], "second"))
        return {"serving_default": ({"x": x}, outputs)}

    save_v1(path, build, tags, init=tf1.tables_initializer, assets=bool(words))
    for name, text in (extra or {}).items():
        (path / "assets.extra").mkdir(exist_ok=True)
        (path / "assets.extra" / name).write_text(text)
    return path


def bundles(folder, *models, encodings=()):
    """Their bundles, quantized where an encoding is named."""
    made = []
    for number, path in enumerate(models):
        made.append(folder / f"bundle{number}")
        tags = BOTH[number]
        api.freeze(path, made[-1], tags=tags)
        if encoding := dict(enumerate(encodings)).get(number):
            api.quantize(made[-1], folder / f"quantized{number}", encoding=encoding, placement="load")
            made[-1] = folder / f"quantized{number}"
    return made


def assert_answers(models, joined, rtol=1e-5):
    for path, tags in zip(models, BOTH, strict=True):
        wanted = served(path, REQUEST, tags)
        for loader in (served, in_session, in_python):
            assert_alike(wanted, loader(joined, REQUEST, tags), rtol=rtol, atol=rtol)


def test_equal_weights_are_stored_once_and_differing_ones_apart(tmp_path):
    models = [model(tmp_path / tags[-1] / str(i), tags, head=i) for i, tags in enumerate(BOTH)]
    first, second = bundles(tmp_path, *models)
    report = api.reexport(first, tmp_path / "joined", also=[second])
    assert_answers(models, tmp_path / "joined")
    assert interface(tmp_path / "joined") == interface(models[0])
    shapes = dict(tf.train.list_variables(str(tmp_path / "joined/variables/variables")))
    assert sorted(map(tuple, shapes.values())) == [(80, 70), (80, 70), (90, 80)]
    assert any("1 of 2 stored tensors, 28,800 bytes, are shared" in note for note in report.notes)
    assert set(report.errors) == {"serve: serving_default/y", "gpu,serve: serving_default/y"}
    assert max(report.errors.values()) == 0


def test_models_that_are_one_but_for_their_tags_take_no_more_room(tmp_path):
    models = [model(tmp_path / str(i), tags) for i, tags in enumerate(BOTH)]
    first, second = bundles(tmp_path, *models)
    api.reexport(first, tmp_path / "alone")
    api.reexport(first, tmp_path / "joined", also=[second])
    assert_answers(models, tmp_path / "joined")
    sizes = [storage.size(tmp_path / name / "variables") for name in ("alone", "joined")]
    assert sizes[0] == sizes[1] > 40_000


@pytest.mark.parametrize("encodings", [("int8", "int8"), ("int8", None), (None, "float16")])
def test_encoded_weights_are_joined_too(tmp_path, encodings):
    models = [model(tmp_path / str(i), tags, head=i) for i, tags in enumerate(BOTH)]
    pair = bundles(tmp_path, *models, encodings=encodings)
    api.reexport(pair[0], tmp_path / "joined", also=[pair[1]])
    assert_answers(models, tmp_path / "joined", rtol=0.2)
    keys = [name for name, _ in tf.train.list_variables(str(tmp_path / "joined/variables/variables"))]
    assert len(keys) == {("int8", "int8"): 6, ("int8", None): 6, (None, "float16"): 4}[encodings]


@pytest.mark.parametrize(("words", "files"), [("first\nsecond\n", ["words.txt"]), ("second\n", None)])
def test_asset_files_are_one_where_they_are_equal_and_renamed_where_not(tmp_path, words, files):
    models = [
        model(tmp_path / str(i) / "m", tags, words=text)
        for i, (tags, text) in enumerate(zip(BOTH, ("first\nsecond\n", words), strict=True))
    ]
    pair = bundles(tmp_path, *models)
    api.reexport(pair[0], tmp_path / "joined", also=[pair[1]])
    assert_answers(models, tmp_path / "joined")
    found = [served(tmp_path / "joined", REQUEST, tags)[0]["found"].tolist() for tags in BOTH]
    assert found == [[1] * 4, [1 if files else 0] * 4]
    assert sorted(path.name for path in (tmp_path / "joined/assets").iterdir()) == files or ["words.txt", "words_1.txt"]


def test_extra_files_that_differ_are_refused_and_nothing_is_left(tmp_path):
    models = [model(tmp_path / str(i), tags, extra={"a.txt": "same", "b": str(i)}) for i, tags in enumerate(BOTH)]
    pair = bundles(tmp_path, *models)
    with pytest.raises(ModelError, match=r"^assets.extra/b of the bundle with the tags \{gpu,serve\} is another file"):
        api.reexport(pair[0], tmp_path / "joined", also=[pair[1]])
    assert not (tmp_path / "joined").exists()
    (pair[1] / "assets.extra/b").unlink()
    api.reexport(pair[0], tmp_path / "joined", also=[pair[1]])
    assert sorted(path.name for path in (tmp_path / "joined/assets.extra").iterdir()) == ["a.txt", "b"]


def test_equal_tags_and_other_formats_are_refused(tmp_path):
    (bundle,) = bundles(tmp_path, model(tmp_path / "m", ["serve"]))
    with pytest.raises(ModelError, match=r"2 bundles have the tags \{serve\}"):
        api.reexport(bundle, tmp_path / "joined", also=[bundle])
    with pytest.raises(UsageError, match="--also"):
        api.reexport(bundle, tmp_path / "joined", also=[bundle], format="graph_def")


def test_weights_that_got_mixed_up_are_found_before_the_model_takes_its_name(tmp_path, monkeypatch):
    models = [model(tmp_path / str(i), tags, head=i) for i, tags in enumerate(BOTH)]
    pair = bundles(tmp_path, *models)
    monkeypatch.setattr(join, "_digest", lambda weight: repr(weight.shape).encode())
    with pytest.raises(ModelError, match="joining the tags gpu,serve changed the answers"):
        api.reexport(pair[0], tmp_path / "joined", also=[pair[1]])
    assert not (tmp_path / "joined").exists()
