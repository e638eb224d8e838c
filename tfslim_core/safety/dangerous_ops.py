"""Which of TensorFlow's ops reach beyond the model: files, the network, Python, code that is not in the graph.

Written for the registry of TensorFlow 2.21; a test holds every registered op whose name or arguments sound of files,
hosts or programs against this table.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["reads files", "writes files", "network", "Python", "code"]
# The worst first, for one line that names the worst.
KINDS: tuple[Kind, ...] = ("code", "Python", "writes files", "network", "reads files")


@dataclass(frozen=True)
class Danger:
    """What an op does, and which of its inputs or attributes, by the OpDef's names, say where."""

    kind: Kind
    does: str
    paths: tuple[str, ...] = ()


def _listed(kind: Kind, does: str, text: str) -> dict[str, Danger]:
    """`Op(path, path) Op …`: the same danger for each."""
    found = {}
    for word in text.split():
        name, _, arguments = word.rstrip(")").partition("(")
        found[name] = Danger(kind, does, tuple(filter(None, arguments.split(","))))
    return found


DANGEROUS: dict[str, Danger] = {
    **_listed(
        "reads files",
        "reads a file",
        """ReadFile(filename) ImmutableConst(memory_region_name) MatchingFiles(pattern) MatchingFilesDataset(patterns)
        ExperimentalMatchingFilesDataset(patterns) InitializeTableFromTextFile(filename)
        InitializeTableFromTextFileV2(filename) FixedUnigramCandidateSampler(vocab_file)
        GenerateVocabRemapping(new_vocab_file,old_vocab_file) LoadAndRemapMatrix(ckpt_path) RecordInput(file_pattern)
        Skipgram(filename) DecodeProtoV2(descriptor_source) EncodeProto(descriptor_source)""",
    ),
    **_listed(
        "reads files",
        "reads a checkpoint",
        "Restore(file_pattern) RestoreSlice(file_pattern) RestoreV2(prefix) DTensorRestoreV2(prefix)",
    ),
    **_listed(
        "reads files",
        "reads data files",
        """CSVDataset(filenames) CSVDatasetV2(filenames) ExperimentalCSVDataset(filenames)
        FixedLengthRecordDataset(filenames) FixedLengthRecordDatasetV2(filenames) LMDBDataset(filenames)
        ExperimentalLMDBDataset(filenames) TFRecordDataset(filenames) TFRecordDatasetV2(filenames)
        TextLineDataset(filenames) LoadDataset(path) ListSnapshotChunksDataset(snapshot_path)
        SnapshotChunkDataset(chunk_file) SnapshotDatasetReader(shard_dir) SnapshotNestedDatasetReader
        FixedLengthRecordReader FixedLengthRecordReaderV2 TextLineReader TextLineReaderV2 TFRecordReader
        TFRecordReaderV2 LMDBReader WholeFileReader WholeFileReaderV2""",
    ),
    **_listed(
        "writes files",
        "writes a file",
        """WriteFile(filename) PrintV2(output_stream) DumpTensor(log_dir_path,file_name) DatasetToTFRecord(filename)
        ExperimentalDatasetToTFRecord(filename) CalibrationStatisticsSaver(output_file_path) CacheDataset(filename)
        CacheDatasetV2(filename) SaveDataset(path) SaveDatasetV2(path) DistributedSave(directory,address)
        SnapshotDataset(path) SnapshotDatasetV2(path) SqlDataset(data_source_name)
        ExperimentalSqlDataset(data_source_name)""",
    ),
    **_listed(
        "writes files",
        "writes a checkpoint",
        """Save(filename) SaveSlices(filename) SaveV2(prefix)
        MergeV2Checkpoints(checkpoint_prefixes,destination_prefix)""",
    ),
    **_listed(
        "writes files",
        "writes summaries",
        """CreateSummaryFileWriter(logdir) CreateSummaryDbWriter(db_uri) SummaryWriter ImportEvent FlushSummaryWriter
        CloseSummaryWriter StatsAggregatorSetSummaryWriter WriteSummary WriteAudioSummary WriteGraphSummary
        WriteHistogramSummary WriteImageSummary WriteRawProtoSummary WriteScalarSummary""",
    ),
    **_listed(
        "writes files",
        "sends what it sees to a debugger's files or address",
        """DebugIdentity(debug_urls) DebugIdentityV2(debug_urls) DebugIdentityV3(debug_urls) DebugNanCount(debug_urls)
        DebugNumericSummary(debug_urls) Copy(debug_ops_spec) CopyHost(debug_ops_spec)""",
    ),
    **_listed(
        "network",
        "talks to another process",
        """DataServiceDataset(address) DataServiceDatasetV2(address) DataServiceDatasetV3(address)
        DataServiceDatasetV4(address) RegisterDataset(address) RegisterDatasetV2(address) RpcClient(server_address)
        RpcServer(server_address) RpcServerStart RpcServerRegister RpcCall RpcCheckStatus RpcGetValue
        DeleteRpcFutureResource WorkerHeartbeat RemoteCall(target)""",
    ),
    **_listed("network", "changes how file systems are reached", "FileSystemSetConfiguration"),
    **_listed(
        "network",
        "waits for another device or host",
        """Send Recv _Send _Recv _HostSend _HostRecv CollectiveAllToAllV2 CollectiveAllToAllV3 CollectiveAssignGroupV2
        CollectiveBcastRecv CollectiveBcastRecvV2 CollectiveBcastSend CollectiveBcastSendV2 CollectiveGather
        CollectiveGatherV2 CollectiveInitializeCommunicator CollectivePermute CollectiveReduce CollectiveReduceScatterV2
        CollectiveReduceV2 CollectiveReduceV3""",
    ),
    **_listed("Python", "calls a Python function of the process", "PyFunc PyFuncStateless EagerPyFunc"),
    **_listed("code", "runs a graph that is hidden in a string", "DatasetFromGraph"),
    **_listed(
        "code",
        "runs a program that is no graph of TensorFlow's",
        """XlaCallModule XlaCustomCall XlaCustomCallV2 MlirPassthroughOp _TPUCompileMlir _XlaHostComputeMlir TPUExecute
        TPUExecuteAndUpdateVariables _XlaRun""",
    ),
}

# Values of a path argument with which the op touches nothing.
HARMLESS_VALUES: dict[str, tuple[bytes, ...]] = {
    "PrintV2": (b"stdout", b"stderr", b"log(info)", b"log(warning)", b"log(error)"),
    "DecodeProtoV2": (b"local://", b"bytes://"),
    "EncodeProto": (b"local://", b"bytes://"),
}
# Ops that do nothing of the kind when their path arguments are empty.
IDLE_WHEN_EMPTY = frozenset(
    """CacheDataset CacheDatasetV2 FixedUnigramCandidateSampler DebugIdentity DebugIdentityV2 DebugIdentityV3
    DebugNanCount DebugNumericSummary Copy CopyHost PrintV2 DecodeProtoV2 EncodeProto""".split()
)


def is_harmless_value(op: str, value: bytes) -> bool:
    """Whether this value of the op's path argument keeps it from touching anything."""
    if not value:
        return op in IDLE_WHEN_EMPTY
    return value.startswith(HARMLESS_VALUES.get(op, ())) if op != "PrintV2" else value in HARMLESS_VALUES[op]
