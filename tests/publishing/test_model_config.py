"""The text for --model_config_file, read by a parser of protocol buffers with TensorFlow Serving's messages."""

from __future__ import annotations

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format

from tests.publishing.test_folder import model, verdict_on  # noqa: F401
from tfslim_core import api
from tfslim_core.errors import GateFailedError, ModelError, OutputExistsError, UsageError
from tfslim_core.publishing.model_config import model_config_text

# The fields that are written, as tensorflow_serving/config/*.proto has them.
FIELDS = {
    "ModelServerConfig": [("model_config_list", 1, "ModelConfigList", False)],
    "ModelConfigList": [("config", 1, "ModelConfig", True)],
    "ModelConfig": [
        ("name", 1, "", False),
        ("base_path", 2, "", False),
        ("model_platform", 4, "", False),
        ("model_version_policy", 7, "ServableVersionPolicy", False),
    ],
    "ServableVersionPolicy": [("latest", 100, "Latest", False)],
    "Latest": [("num_versions", 1, "uint32", False)],
}


@pytest.fixture(scope="module")
def parse():
    file = descriptor_pb2.FileDescriptorProto(name="server.proto", package="t", syntax="proto3")
    for name, fields in FIELDS.items():
        message = file.message_type.add(name=name)
        for field, number, kind, repeated in fields:
            added = message.field.add(name=field, number=number, label=3 if repeated else 1)
            added.type = {"": 9, "uint32": 13}.get(kind, 11)
            if added.type == 11:
                added.type_name = f".t.{kind}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    config = message_factory.GetMessageClass(pool.FindMessageTypeByName("t.ModelServerConfig"))
    return lambda text: text_format.Parse(text, config()).model_config_list.config


@pytest.mark.parametrize(
    ("base", "name", "wanted"),
    [
        ("/models/digits", None, "digits"),
        ("gs://bucket/models/digits/", None, "digits"),
        ("/models/digits", "other", "other"),
        ("/m\"o\\d\n\t\x7fé日本/x 'y'", 'naïve "q" \\ \x001', 'naïve "q" \\ \x001'),
    ],
)
def test_a_server_reads_what_was_meant(parse, base, name, wanted):
    (config,) = parse(model_config_text(base, name))
    assert (config.name, config.base_path, config.model_platform) == (wanted, base, "tensorflow")
    assert config.model_version_policy.latest.num_versions == 1


@pytest.mark.parametrize(("base", "name"), [("gs://", ""), ("/", None), ("/m", "a/b"), ("/m\udcff", "m")])
def test_what_is_no_name_is_refused(base, name):
    with pytest.raises(UsageError):
        model_config_text(base, name)


def test_it_is_written_beside_a_publication(parse, model, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.chdir(tmp_path)
    file, given = tmp_path / "deep/models.config", {"verdict": verdict_on(model), "model_config": "deep/models.config"}
    for _ in range(2):  # the second time it says the same
        api.publish(model, "base", **given)
        assert [config.base_path for config in parse(file.read_text())] == [str(tmp_path / "base")]
    with pytest.raises(OutputExistsError, match=r"models.config already exists; give --overwrite"):
        api.publish(model, "base", model_name="other", **given)
    assert [one.number for one in api.versions("base")] == [1, 2]  # refused before anything was published
    api.publish(model, "base", model_name="other", overwrite=True, **given)
    assert [config.name for config in parse(file.read_text())] == ["other"]
    (tmp_path / "folder").mkdir()
    for impossible in ("deep/models.config/x", "folder"):
        with pytest.raises((ModelError, OutputExistsError), match=r"cannot write|is a directory"):
            api.publish(model, "base", verdict=verdict_on(model), model_config=impossible, overwrite=True)
    assert [one.number for one in api.versions("base")] == [1, 2, 3]  # as before
    with pytest.raises(GateFailedError):
        api.publish(model, "base", verdict=verdict_on(model, "fail"), model_config="none/models.config")
    assert not list((tmp_path / "none").glob("*"))
    with pytest.raises(UsageError, match="give --model-config FILE too"):
        api.publish(model, "base", verdict=verdict_on(model), model_name="other")
