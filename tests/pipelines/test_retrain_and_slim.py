"""Retraining, whole and for real: a small network on real digits, with nothing served and then against that."""

import functools
import http.server
import json
import threading
from typing import List, NamedTuple  # noqa: UP035  # kfp knows this spelling

import numpy as np
import pytest
import yaml
from google.protobuf import json_format
from kfp import compiler, dsl
from kfp import components as kfp_components
from kfp.pipeline_spec import pipeline_spec_pb2

from benchmarks.places import DIGITS
from components.train import train
from pipelines.digits import write_digits
from pipelines.retrain_and_slim import retraining
from pipelines.trainer import loaded
from tests.pipelines.test_main import called, content, dags
from tfslim_core import storage
from tfslim_core.errors import OutputExistsError, TfslimError, UsageError
from tfslim_core.saved_model.server_loader import ServedModel

needs_digits = pytest.mark.skipif(not DIGITS.is_file(), reason="make setup fetches the digits")


@dsl.component(base_image="mine", install_kfp_package=False)
def mine(data: dsl.Input[dsl.Dataset], model: dsl.Output[dsl.Model], seed: int, depth: int = 3):
    pass


@dsl.component(base_image="mine", install_kfp_package=False)
def without_data(texts: dsl.Input[dsl.Dataset], model: dsl.Output[dsl.Model]):
    pass


@dsl.component(base_image="mine", install_kfp_package=False)
def without_model(data: dsl.Input[dsl.Dataset], network: dsl.Output[dsl.Model]):
    pass


@dsl.component(base_image="mine", install_kfp_package=False)
def demanding(data: dsl.Input[dsl.Dataset], model: dsl.Output[dsl.Model], depth: int):
    pass


@dsl.component(base_image="mine", install_kfp_package=False)
def of_many(data: dsl.Input[List[dsl.Dataset]], model: dsl.Output[dsl.Model]):  # noqa: UP006
    pass


@dsl.component(base_image="mine", install_kfp_package=False)
def of_a_model(data: dsl.Input[dsl.Model], model: dsl.Output[dsl.Model]):
    pass


@dsl.component(base_image="mine", install_kfp_package=False)
def seeded_by_text(data: dsl.Input[dsl.Dataset], model: dsl.Output[dsl.Model], seed: str):
    pass


@dsl.component(base_image="mine", install_kfp_package=False)
def clean(data: dsl.Input[dsl.Dataset], cleaned: dsl.Output[dsl.Dataset]):
    pass


class Trained(NamedTuple):
    model: dsl.Model


@dsl.pipeline(name="in-two-steps")
def in_two_steps(data: dsl.Input[dsl.Dataset], seed: int) -> Trained:
    return Trained(mine(data=clean(data=data).outputs["cleaned"], seed=seed).outputs["model"])


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits") / "digits"
    write_digits(folder)
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tmp_path_factory.mktemp("served") / "base"


def run(digits, base, work, *more):
    arguments = [f"training_data={digits / 'training.npz'}", f"data={digits / 'holdout.npz'}", f"base={base}"]
    parts = (part for one in [*arguments, "measure_costs=false", *more] for part in ("--arg", one))
    return called("run", "--pipeline", "retrain_and_slim", "--work", work, *parts)


@pytest.fixture(scope="module")
def first(digits, base, tmp_path_factory):
    work = tmp_path_factory.mktemp("runs") / "first"
    return run(digits, base, work), content(base)


@pytest.fixture(scope="module")
def second(digits, base, first, tmp_path_factory):
    """Another training, of which the only candidate is damaged."""
    work = tmp_path_factory.mktemp("runs") / "second"
    return run(digits, base, work, "seed=1", "encoding=palette1", f"report_to={work.parent / 'reports'}"), work


@needs_digits
def test_the_first_training_is_published_with_nothing_to_compare_with(first, base, digits):
    (exit_code, out, err), _ = first
    assert exit_code == 0, err
    assert out.splitlines()[-1] == f"published: {base / '1'}"
    steps = {" ".join(line.split()[:-1]): line.split()[-1] for line in err.splitlines()}
    assert steps["validate against served"] == steps["join against served"] == "skipped"
    assert "skip done" in " ".join(err.split())
    holdout = np.load(digits / "holdout.npz")
    with ServedModel(base / "1", ["serve"]) as served:
        scores = served.run("serving_default", {"x": holdout["x"]})["scores"]
    assert (scores.argmax(-1) == holdout["label"]).mean() > 0.9


@needs_digits
def test_a_damaged_one_is_not_published_and_what_is_served_stays(second, first, base):
    (exit_code, _, err), _ = second
    _, before = first
    assert exit_code == 3
    assert err.splitlines()[-1].startswith("pipelines: not published: the gate failed: On dataset 'holdout' ")
    assert [line.split() for line in err.splitlines() if "publish " in line] == [["publish", "skipped"]]
    assert "validate against served done" in " ".join(err.split())
    assert content(base) == before


@needs_digits
def test_it_was_compared_with_what_is_served_on_labels(second, base):
    _, work = second
    (verdict,) = work.glob("*/join-2/verdict/verdict.json")
    found = json.loads(verdict.read_text())
    assert found["models"]["original"]["digest"] == storage.digest(base / "1")
    assert {check["expr"] for check in found["checks"]} == {"nan_mismatches<=0", "label_accuracy_drop<=0.02"}
    assert found["datasets"]["holdout"]["labels"]["accuracy"]["original"] > 0.9
    (told,) = (work.parent / "reports").iterdir()
    assert json.loads(told.read_text())["served"]["version"] == 1


def arrays(folder, **named):
    np.savez(folder / "data.npz", **named)
    return dsl.Dataset(name="data", uri=str(folder / "data.npz"), metadata={})


def trained(folder, name, data, **options):
    model = dsl.Model(name=name, uri=str(folder / name), metadata={})
    train.python_func(data, model, dsl.Metrics(), **options)
    return storage.digest(folder / name), folder / name


@pytest.mark.parametrize("shape", [(8, 8), (64,), (10, 9, 3)])
def test_images_of_any_form_are_trained_on(shape, tmp_path):
    random = np.random.default_rng(0)
    data = arrays(tmp_path, image=random.random((40, *shape), np.float32), y=np.arange(40) % 3)
    _, path = trained(tmp_path, "model", data, label="y", epochs=1)
    with ServedModel(path, ["serve"]) as served:
        scores = served.run("serving_default", {"image": random.random((5, *shape), np.float32)})["scores"]
    assert scores.shape == (5, 3)
    np.testing.assert_allclose(scores.sum(-1), 1, rtol=1e-5)


@pytest.mark.parametrize(
    ("named", "says"),
    [
        ({"x": np.zeros((4, 8, 8))}, "wants 'label' and one array of images, has \\['x'\\]"),
        ({"x": np.zeros((4, 8, 8)), "z": np.zeros(4), "label": np.zeros(4, int)}, "one array of images"),
        ({"x": np.zeros((4, 8, 8)), "label": np.zeros(3, int)}, "'label' has to be \\[4\\] of whole numbers"),
        ({"x": np.zeros((4, 8, 8)), "label": np.zeros(4)}, "is float64 \\(4,\\)"),
        ({"x": np.zeros((4, 63)), "label": np.zeros(4, int)}, "flat images have to be square"),
        ({"x": np.zeros((4, 4, 4)), "label": np.zeros(4, int)}, "8 x 8 pixels or more"),
        ({"x": np.full((4, 8, 8), np.nan), "label": np.zeros(4, int)}, "finite"),
        ({"x": np.zeros((4, 8, 8)), "label": np.array([0, 1, -1, 2])}, "classes from 0 on"),
    ],
)
def test_what_cannot_be_trained_on_is_told_in_one_line(named, says, tmp_path):
    with pytest.raises(SystemExit, match=f"^tfslim: .*data.npz: .*{says}"):
        trained(tmp_path, "model", arrays(tmp_path, **named))
    assert not (tmp_path / "model").exists()


def test_numbers_of_no_training_are_told_in_one_line(tmp_path):
    data = arrays(tmp_path, x=np.zeros((4, 8, 8)), label=np.zeros(4, int))
    for given in ({"seed": -1}, {"epochs": 0}, {"batch_size": 0}):
        with pytest.raises(SystemExit, match=r"^tfslim: epochs .* are 1 or more, seed .* is 0 or more"):
            trained(tmp_path, "model", data, **given)


def test_a_file_of_objects_is_not_unpickled(tmp_path):
    with pytest.raises(SystemExit, match=r"no \.npz file of numbers"):
        trained(tmp_path, "model", arrays(tmp_path, x=np.array([{}], object), label=np.zeros(1, int)))


def test_digits_are_not_written_over(tmp_path):
    with pytest.raises(OutputExistsError):
        write_digits(tmp_path)


def test_compiles_strictly_with_any_trainer(tmp_path):
    compiler.Compiler().compile(mine, str(tmp_path / "mine.yaml"))
    file = tmp_path / "it.yaml"
    made = called("compile", "--pipeline", "retrain_and_slim", "--trainer", tmp_path / "mine.yaml", "--out", file)
    assert made[:2] == (0, f"{file}\n"), made
    spec = yaml.safe_load(file.read_text())
    json_format.ParseDict(spec, pipeline_spec_pb2.PipelineSpec())
    kfp_components.load_component_from_file(str(file))
    given = dags(spec)["mine"]["inputs"]
    assert set(given["parameters"]) == {"seed"}
    assert set(given["artifacts"]) == {"data"}
    assert "train" not in dags(spec)
    assert dags(spec)["condition-branches-1"]["dependentTasks"]


def test_a_trainer_may_be_a_pipeline(tmp_path):
    compiler.Compiler().compile(in_two_steps, str(tmp_path / "mine.yaml"))
    compiler.Compiler().compile(retraining(loaded(str(tmp_path / "mine.yaml"))), str(tmp_path / "it.yaml"))
    tasks = dags(yaml.safe_load((tmp_path / "it.yaml").read_text()))
    assert set(tasks["in-two-steps"]["inputs"]["parameters"]) == {"seed"}
    assert {"clean", "mine"} <= set(tasks)


@pytest.mark.parametrize(
    ("trainer", "says"),
    [
        (without_data, "no Dataset called data"),
        (of_a_model, "no Dataset called data"),
        (of_many, "takes a list as data"),
        (without_model, "no Model called model"),
        (demanding, "needs depth"),
        (seeded_by_text, "takes seed as String; it is handed one as Integer"),
    ],
)
def test_what_is_no_trainer_is_refused(trainer, says):
    with pytest.raises(UsageError, match=says):
        retraining(trainer)


def test_a_trainer_by_its_address(tmp_path):
    compiler.Compiler().compile(mine, str(tmp_path / "mine.yaml"))
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        at = f"http://127.0.0.1:{server.server_port}"
        assert loaded(f"{at}/mine.yaml").name == "mine"
        with pytest.raises(TfslimError, match=r"--trainer http://[^?]*/nothing.yaml\?…: HTTP 404$"):
            loaded(f"{at}/nothing.yaml?key=hunter2")
        server.shutdown()
    with pytest.raises(TfslimError, match="ConnectionError") as caught:
        loaded(f"{at.replace('//', '//me:hunter2@')}/mine.yaml")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "[1, 2", "a: b", "- 1", "!!python/object/apply:os.system ['true']"])
def test_what_is_no_component_is_told_in_one_line(text, tmp_path):
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(TfslimError, match="not a component that kfp can load") as caught:
        loaded(str(tmp_path / "x.yaml"))
    assert "\n" not in str(caught.value)
    with pytest.raises(TfslimError, match="No such file"):
        loaded(str(tmp_path / "nothing.yaml"))
