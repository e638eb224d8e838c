"""Where the job runs: options, processes, paths that workers cannot see, and the graph that goes to Dataflow."""

import base64
import bz2
import contextlib
import logging
import os
import re
import socket
import zlib
from functools import partial
from pathlib import Path

import apache_beam as beam
import numpy as np
import pytest
from apache_beam.options.pipeline_options import DirectOptions, StandardOptions
from apache_beam.runners.dataflow.internal import apiclient

from tests.validation import tiny_models
from tfslim_core import api, buckets
from tfslim_core.errors import DataError, JobError, UsageError
from tfslim_core.saved_model.served_signatures import read_signatures
from tfslim_core.validation import pipeline, runners
from tfslim_core.validation.feeding import feeding
from tfslim_core.validation.job import validate
from tfslim_core.validation.paired_models import PairHandler, open_served_model
from tfslim_core.validation.records import Range

WEIGHTS = np.random.default_rng(5).normal(size=(4, 3)).round(2)
IMAGE = "europe-docker.pkg.dev/project/images/tfslim-worker:0.1"
DATAFLOW = [
    "--runner=DataflowRunner",
    "--project=project",
    "--region=europe-west1",
    "--temp_location=gs://bucket/temp",
    f"--sdk_container_image={IMAGE}",
    "--sdk_location=container",
    "--max_num_workers=7",
]


@pytest.fixture
def case(tmp_path):
    tiny_models.linear(tmp_path / "before", WEIGHTS)
    tiny_models.linear(tmp_path / "after", WEIGHTS * 1.001)
    for name, seed in (("a", 1), ("b", 2)):
        np.savez(tmp_path / f"{name}.npz", x=np.random.default_rng(seed).normal(size=(50, 4)).astype(np.float32))
    return tmp_path


def run(case: Path, name: str, *options: str, **more):
    (case / name).mkdir()
    data = {one: str(case / f"{one}.npz") for one in ("a", "b")}
    return validate(
        case / "before",
        case / "after",
        data,
        out=case / name,
        measure_costs=False,
        beam_options=options,
        **more,
    )


def test_by_default_the_job_asks_no_network_and_warns_of_nothing(case, monkeypatch, caplog):
    asked = []

    def refuse(self, address):
        asked.append(address)
        raise OSError("no network in this test")

    monkeypatch.setattr(socket, "getaddrinfo", lambda *address, **_: asked.append(address))
    monkeypatch.setattr(socket.socket, "connect", refuse)
    with caplog.at_level(logging.WARNING):
        found = run(case, "out")
        named = run(case, "named", "--runner=DirectRunner")
    assert found.verdict == named.verdict
    assert found.verdict.datasets["a"].examples == 50
    assert asked == []
    assert [record.getMessage() for record in caplog.records] == []


def test_several_workers_are_several_processes_with_the_same_verdict(case):
    told = case / "processes"
    told.mkdir()
    one = run(case, "one")
    two = run(case, "two", "--direct_num_workers=2", open_model=noting_model)
    assert one.verdict == two.verdict
    assert one.worst == two.worst
    processes = {int(note.name) for note in told.iterdir()}
    assert processes
    assert os.getpid() not in processes


def noting_model(path, tags):
    """A model that notes the process that loads it."""
    (Path(path).parent / "processes" / str(os.getpid())).touch()
    return open_served_model(path, tags)


@pytest.mark.parametrize(
    ("options", "mode"),
    [
        ([], "in_memory"),
        (["--direct_num_workers", "2"], "multi_processing"),
        (["--direct_num_workers=2", "--direct_running_mode=multi_threading"], "multi_threading"),
    ],
)
def test_how_workers_run_in_this_machine(options, mode):
    options = runners.options_of(options)
    assert runners.in_process(options)
    assert options.view_as(StandardOptions).runner == "FnApiRunner"
    assert options.view_as(DirectOptions).direct_running_mode == mode


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--direct_num_worker=2"], r"^--direct_num_worker: .* did you mean '--direct_num_workers'\?$"),
        (["--direct_num_workers=two"], r"^Beam: argument --direct_num_workers: invalid int value: 'two'$"),
        (["--runner=Dataflw"], r"^--runner: no runner 'Dataflw'; did you mean 'DataflowRunner'\?"),
        (["--runner=DataflowRunner", "--max_num_worker=3"], "did you mean '--max_num_workers'"),
    ],
)
def test_options_that_nobody_knows_are_usage_errors(options, says, capfd):
    with pytest.raises(UsageError, match=says):
        runners.options_of(options)
    assert capfd.readouterr().err == "", "the error is the only word on it"


def test_options_of_a_runner_that_cannot_be_asked_pass():
    # It starts its job server itself, and only that knows its options.
    assert not runners.in_process(runners.options_of(["--runner=FlinkRunner", "--latency_tracking_interval=5"]))


def test_a_job_server_that_does_not_answer_is_told_at_once(monkeypatch):
    monkeypatch.setattr(runners, "_ASKED_SECONDS", 1)
    with pytest.raises(JobError, match=r"--job_endpoint=127\.0\.0\.1:1: no job server answered within 1 seconds"):
        runners.options_of(["--runner=PortableRunner", "--job_endpoint=127.0.0.1:1"])


@pytest.mark.parametrize(
    ("options", "sees"),
    [
        ([], True),
        (["--direct_num_workers=2"], True),
        (["--runner=PrismRunner"], True),
        (["--runner=FlinkRunner"], True),
        (["--runner=FlinkRunner", "--flink_master=far:8081"], False),
        (["--runner=FlinkRunner", "--flink_master=far:8081", "--environment_type=EXTERNAL"], True),
        (["--runner=SparkRunner"], False),
        (["--runner=PortableRunner", "--environment_type=DOCKER"], False),
        (["--runner=dataflow"], False),
        (DATAFLOW, False),
    ],
)
def test_local_paths_are_refused_where_workers_cannot_see_them(options, sees):
    options = runners.options_of(options)
    if sees:
        runners.check_reachable(options, {"ORIGINAL": "/models/1"})
    else:
        with pytest.raises(UsageError, match=r"^ORIGINAL: workers cannot see /models/1: .*EXTERNAL"):
            runners.check_reachable(options, {"ORIGINAL": "/models/1"})


def test_nothing_is_submitted_that_workers_could_not_run(case):
    with pytest.raises(UsageError, match=r"^ORIGINAL: workers cannot see .*/before: DataflowRunner runs them"):
        run(case, "out", *DATAFLOW)
    (case / "url").mkdir()
    with pytest.raises(UsageError, match=r"^--data a: gs://bucket/a.npz: the job reads local paths"):
        validate(case / "before", case / "after", {"a": "gs://bucket/a.npz"}, out=case / "url")


@pytest.mark.parametrize("given", ["original", "optimized", "data", "corpus"])
def test_addresses_are_refused_before_they_are_copied_where_workers_would_not_see_the_copies(case, monkeypatch, given):
    monkeypatch.setattr(buckets, "download", lambda *_: pytest.fail("it was copied"))
    paths = {"original": case / "before", "optimized": case / "after", "data": {"a": str(case / "a.npz")}}
    pool = ["--runner=PortableRunner", "--environment_type=EXTERNAL", "--environment_config=localhost:1"]
    for options, why in ((pool, "PortableRunner may run them on other machines"), (DATAFLOW, "on Google's machines")):
        if given == "corpus":
            call = partial(api.prune_vocabulary, "bundle", corpus={"a": "gs://bucket/a.npz"})
        else:
            address = {"a": "gs://bucket/a.npz"} if given == "data" else "gs://bucket/model"
            call = partial(api.validate, **(paths | {given: address}))
        with pytest.raises(UsageError, match=rf"gs://bucket/\S+ would be copied to this machine, .*{why}; copy it"):
            call(out=case / "o", beam_options=options)
    assert not (case / "o").exists()


def test_results_go_below_the_temp_location():
    folder = runners.results_folder(runners.options_of(DATAFLOW))
    assert folder is not None
    assert folder.startswith("gs://bucket/temp/tfslim-")
    assert runners.results_folder(runners.options_of(["--temp_location", "/shared/"])).startswith("/shared/tfslim-")
    assert runners.results_folder(runners.options_of([])) is None
    elsewhere = [option for option in DATAFLOW if not option.startswith("--temp_location")]
    with pytest.raises(UsageError, match=r"there is no --temp_location: .* give --temp_location=gs://"):
        runners.results_folder(runners.options_of(elsewhere))
    with pytest.raises(UsageError, match=r"^workers cannot write to --temp_location=/tmp/x: Data"):
        runners.results_folder(runners.options_of([*elsewhere, "--temp_location=/tmp/x"]))


def test_results_that_nobody_sees_are_an_error_and_never_no_data(case, monkeypatch):
    monkeypatch.setattr(pipeline, "_read", lambda _: b"")
    with pytest.raises(JobError, match=r"left no result on dataset '[ab]' in .*--temp_location"):
        run(case, "out")


def test_the_results_folder_is_deleted_once_it_was_read(case):
    run(case, "out", f"--temp_location={case / 'shared'}")
    assert list((case / "shared").iterdir()) == []


def test_what_a_worker_raised_is_the_error_here_too(case):
    options = runners.options_of([])
    text = (
        "Traceback (most recent call last):\n  File x\n"
        "tfslim_core.errors.DataError: b.npz: x.npy is cut [while running 'Read']\n"
    )
    with pytest.raises(DataError, match=r"^b\.npz: x\.npy is cut$"), runners.told(options):
        raise RuntimeError(text)
    with pytest.raises(DataError, match=r"^b\.npz is cut$"), runners.told(options):
        raise DataError("b.npz is cut [while running 'Read-ptransform-9']")
    with pytest.raises(RuntimeError, match="a bug"), runners.told(options):
        raise RuntimeError("a bug")
    far = runners.options_of(["--runner=FlinkRunner"])
    with pytest.raises(JobError, match=r"^the job failed on FlinkRunner: it was cancelled$"), runners.told(far):
        raise RuntimeError("many\nlines\nit was cancelled\n")


def test_a_file_that_breaks_half_way_is_an_expected_error(case, monkeypatch):
    def read(*_):
        raise DataError("b.npz: x.npy is cut")
        yield

    monkeypatch.setattr(pipeline, "read_shard", read)
    with pytest.raises(DataError, match=r"^b\.npz: x\.npy is cut$"):
        run(case, "out")


@pytest.fixture(scope="module")
def submitted(tmp_path_factory):
    """The job as it would go to Dataflow, made without credentials: (job, its environment)."""
    folder = tmp_path_factory.mktemp("dataflow")
    tiny_models.linear(folder / "model", WEIGHTS)
    served = read_signatures(folder / "model", ("serve",))["serving_default"]
    plan = pipeline.Plan(
        shards=[("test", (Range(0, "gs://bucket/data/part-0.npz", 0, None),))],
        feedings={"test": feeding(served, [], None, "gs://bucket/data/part-0.npz")},
        keys=["y"],
        batch_size=32,
    )
    options = runners.options_of([*DATAFLOW, "--dry_run=True"])
    results = runners.results_folder(options)
    graph = beam.Pipeline(options=options)
    pipeline.build(graph, plan, PairHandler("gs://bucket/a", "gs://bucket/b", ("serve",), "serving_default"), results)
    job = graph.run().job
    environment = apiclient.Environment([], options, "1", "gs://bucket/pipeline.pb", job.proto_pipeline)
    return job, environment.proto, results, str(folder)


def test_dataflow_is_to_run_the_projects_own_image(submitted):
    job, environment, _, _ = submitted
    (pool,) = environment.worker_pools
    assert [image.container_image for image in pool.sdk_harness_container_images] == [IMAGE]
    assert pool.worker_harness_container_image == IMAGE
    assert pool.autoscaling_settings.max_num_workers == 7
    # A process on each core of a worker, with its own copy of both models.
    assert pool.sdk_harness_container_images[0].use_single_core_per_container
    assert environment.temp_storage_prefix.endswith("/bucket/temp")
    assert {one.urn for one in job.proto_pipeline.components.environments.values()} == {"beam:env:docker:v1"}
    (docker,) = job.proto_pipeline.components.environments.values()
    # All that workers need is in the image: only a note on the versions here is staged.
    (note,) = docker.dependencies
    assert note.role_payload.endswith(b"submission_environment_dependencies.txt")


def test_the_graph_for_dataflow_holds_names_and_no_data(submitted):
    job, _, results, folder = submitted
    proto = job.proto_pipeline
    content = b"".join(pickled(transform.spec.payload) for transform in proto.components.transforms.values())
    assert folder.encode() not in content, "a path of this machine"
    for path in ("gs://bucket/data/part-0.npz", "gs://bucket/a", "gs://bucket/b", results):
        assert path.encode() in content, path
    assert len(proto.SerializeToString()) < 200_000
    names = {transform.unique_name for transform in proto.components.transforms.values()}
    assert {"Shards", "Share", "Read", "Run", "Compare", "WriteSummaries", "WriteLetters"} <= names


def pickled(payload: bytes) -> bytes:
    """A payload, and what Beam packed in it unpacked: pickles, compressed, in base64."""
    found = [payload]
    for packed in re.findall(rb"(?:eNo|QlpoO)[A-Za-z0-9+/=]+", payload):
        for unpack in (zlib.decompressobj().decompress, bz2.BZ2Decompressor().decompress):
            with contextlib.suppress(ValueError, OSError, zlib.error):
                found.append(unpack(base64.b64decode(packed[: len(packed) // 4 * 4])))
    return b"".join(found)
