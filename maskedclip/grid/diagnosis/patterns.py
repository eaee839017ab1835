"""The words by which each cause shows, and what to do about it.

They are those of torch, NCCL, gloo, SLURM, submitit and the kernel as they stand in real logs, and
those of this package's own messages.
"""

import re
from typing import NamedTuple

HOST_MEMORY, GPU_MEMORY, SHARED_MEMORY = "host memory", "gpu memory", "shared memory"
TIME_LIMIT, PREEMPTED, NODE_FAILURE = "time limit", "pre-empted", "node failure"
CANCELLED, SUBMISSION, WAITS = "cancelled", "submission", "waits"
NETWORK, HANG, NON_FINITE = "network", "hang", "non-finite"
BAD_SHARD, DISK_FULL, STORAGE = "bad shard", "disk full", "storage"
ENVIRONMENT, GPU_FAULT, KILLED, CRASH = "environment", "gpu fault", "killed", "crash"
CODE, UNKNOWN = "code", "unknown"

REMEDIES = {
    HOST_MEMORY: "ask for more memory a node, or set data.readers and data.prefetch lower",
    GPU_MEMORY: "take a smaller batch a GPU: more GPUs, optim.accumulate, or engine.recompute",
    SHARED_MEMORY: "give /dev/shm more room, or set data.readers and data.prefetch lower",
    TIME_LIMIT: "submit it again: it goes on from the last checkpoint; or give it more hours",
    PREEMPTED: "nothing if SLURM queues it again; else submit it again: it goes on",
    NODE_FAILURE: "submit it again: it goes on; if it comes back, leave that node out (--exclude)",
    CANCELLED: "submit it again when it is wanted: it goes on from the last checkpoint",
    SUBMISSION: "mend what SLURM refuses, then submit it again",
    WAITS: "see why that cell is not finished, mend it, then retry",
    NETWORK: "submit it again; if it comes back, run with NCCL_DEBUG=INFO and test the links",
    HANG: "read the stacks it names; submit it again: it goes on from the last checkpoint",
    NON_FINITE: "lower optim.base_lr or set optim.clip_norm=1 under another name, or skip faults",
    BAD_SHARD: "check the shards with tools/check_shards.py, and build what is damaged again",
    DISK_FULL: "make room, or ask for more quota, then submit it again: it goes on",
    STORAGE: "see to the file system and its permissions, then submit it again",
    ENVIRONMENT: "mend the job's Python, driver or setup lines; run tools/doctor.py on a node",
    GPU_FAULT: "submit it again without that node (--exclude), and tell who runs the cluster",
    KILLED: "often it is the node's memory: look there first; then submit it again",
    CRASH: "submit it again; if it comes back, report it with the log",
    CODE: "read the traceback, mend it, then retry",
    UNKNOWN: "read the logs",
}


class Words(NamedTuple):
    """A pattern, and the cause that it shows."""

    kind: str
    pattern: re.Pattern[str]


def _words(kind: str, *patterns: str) -> Words:
    return Words(kind, re.compile("|".join(patterns), re.IGNORECASE))


# of an exception's own text (type and message), the first that matches
EXCEPTIONS = (
    _words(SUBMISSION, r"could not find submitted jobs", r"temporary saved file already exists"),
    _words(
        SHARED_MEMORY,
        r"unable to (?:write to|open|allocate|mmap|resize).*(?:/torch_|shared memory)",
        r"out of shared memory", r"insufficient shared memory", r"/dev/shm/.*No space left",
    ),
    _words(
        GPU_MEMORY,
        r"OutOfMemoryError(?!.*\bhost\b).*(?:cuda|gpu|hip)", r"CUDA out of memory",
        r"CUDA error: out of memory", r"Cuda failure.*out of memory", r"CUBLAS_STATUS_ALLOC_FAILED",
        r"CUDA_ERROR_OUT_OF_MEMORY", r"cudaErrorMemoryAllocation", r"HIP out of memory",
        r"CUDNN_STATUS_ALLOC_FAILED", r"Failed to CUDA (?:calloc|malloc)",
    ),
    _words(
        HOST_MEMORY,
        r"^(?:\w+\.)*_?(?:ArrayMemoryError|MemoryError)\b", r"DefaultCPUAllocator",
        r"Cannot allocate memory", r"std::bad_alloc", r"Errno 12\b",
        r"worker \(pid\(?s?\)? .*killed by signal: Killed", r"CUDA error: .*host.*memory",
    ),
    _words(
        BAD_SHARD,
        r"samples are lost, more than data\.max_lost", r"samples in a row are damaged",
        r"tools/make_shards\.py", r"is not a manifest of shards", r"DamagedManifest",
        r"DamagedSample", r"no sample of its tars can be had", r"(?:dataset|shards) again\b",
        r"the shard is (?:missing|cut short)", r"changed while it was read",
        r"has another checksum than when it was written",
    ),
    _words(
        NON_FINITE,
        r"before the weights were moved", r"\bloss\w* is (?:nan|-?inf)\b",
        r"(?:non[- ]finite|nan|inf(?:inite)?) (?:loss|grad)", r"loss is not finite",
        r"detected (?:nan|inf)", r"returned nan values", r"gradient overflow.*minimum",
    ),
    _words(
        DISK_FULL,
        r"No space left on device", r"Disk quota exceeded", r"Errno (?:28|122)\b", r"\bENOSPC\b",
        r"\bEDQUOT\b", r"file write failed",
        r"unexpected pos \d+ vs \d+", r"quota (?:is )?exceeded",
        r"database or disk is full", r"No usable temporary (?:directory|file)",
    ),
    _words(
        STORAGE,
        r"Input/output error", r"Stale (?:NFS )?file handle", r"Errno (?:5|30|116|121)\b",
        r"Read-only file system", r"Transport endpoint is not connected", r"Remote I/O error",
        r"checkpoint cannot be written", r"is not seen alike by all ranks", r"Permission denied",
        r"Too many open files",
    ),
    _words(
        GPU_FAULT,
        r"uncorrectable (?:NVLink|ECC)", r"ECC error", r"\bXid\b", r"fallen off the bus",
        r"unspecified launch failure", r"busy or unavailable", r"illegal memory access",
        r"CUDNN_STATUS_(?:EXECUTION_FAILED|INTERNAL)", r"hardware stack error",
        r"CUBLAS_STATUS_(?:EXECUTION_FAILED|INTERNAL)", r"Unable to determine the device handle",
        r"misaligned address", r"GPU is lost", r"launch timed out",
    ),
    _words(
        ENVIRONMENT,
        r"ImportError\b", r"ModuleNotFoundError\b", r"No module named", r"undefined symbol",
        r"NVIDIA driver", r"driver version is insufficient", r"No CUDA GPUs are available",
        r"not compiled with CUDA", r"no kernel image is available", r"invalid device ordinal",
        r"cannot open shared object file", r"GLIBC(?:XX)?_[\d.]+'? not found",
        r"LocalEntryNotFoundError", r"couldn't connect to 'https?:",
        r"Max retries exceeded with url",
        r"PackageNotFoundError", r"CUDA unknown error", r"system not yet initialized",
        r"forward compatibility was attempted", r"this machine has \d+; use --gpus",
        r"CUDA-capable device\(?s?\)? (?:is|are) detected", r"Failed to initialize NVML",
        r"offline mode is enabled", r"urlopen error", r"proxies, maximum number of attempts",
    ),
    _words(KILLED, r"worker .*exited unexpectedly", r"BrokenProcessPool"),
)  # fmt: skip

# of an exception's text: it waited for others in vain, which tells of them
TIMED_OUT = re.compile(
    r"Watchdog caught collective operation timeout|Timed out waiting \d+ ?ms|wait timeout after"
    r"|timeout in: |Timed out after \d+ seconds waiting for clients|Socket Timeout"
    r"|client socket has timed out|store->get\(|RendezvousTimeoutError|monitoredBarrier"
    r"|failed to pass monitoredBarrier|EADDRINUSE|address already in use|took \d+ms.*timed out"
    r"|(?:heartbeat monitor|watchdog).*(?:timed out|got stuck|hang)|Operation timed out"
    r"|Name or service not known|Temporary failure in name resolution|No route to host",
    re.IGNORECASE,
)
# another rank is gone, or this one was told to go
LOST_OTHERS = re.compile(
    r"Connection (?:was )?(?:closed|reset|refused|aborted)|Broken pipe|BrokenPipe|ECONNRESET"
    r"|^EOFError$"
    r"|ncclRemoteError|ncclSystemError|ncclInternalError|unhandled system error|NCCL error"
    r"|ncclUnhandledCudaError|remote process exit|communicator was aborted|DistNetworkError"
    r"|DistStoreError|DistBackendError|recvValue failed|sendBytes failed|Socket closed"
    r"|recv(?:Bytes)? failed|peer (?:has )?(?:closed|gone|exited)|gloo.*(?:error|failed)"
    r"|SendRecv|Application timeout caused pair closure|unexpected exit of a remote peer",
    re.IGNORECASE,
)
TOLD_TO_GO = re.compile(
    r"^(?:\w+\.)*(?:KeyboardInterrupt|SystemExit|SignalException|Preempted|GeneratorExit"
    r"|CancelledError)\b|killed by signal: Terminated|got signal: 15|SIGTERM"
    r"|asked to stop; step \d+ is saved|timed-out (?:too many times|and not checkpointable)",
)
# what tells of a failure elsewhere: submitit's, torchrun's, a parent's
WATCHERS = re.compile(
    r"^(?:\w+\.)*(?:FailedJobError|UncompletedJobError|ChildFailedError|ProcessRaisedException"
    r"|ProcessExitedException|SignalException)\b|Job \(task=\d+\) failed|scontrol.{1,6}requeue"
    r"|Command .*(?:torchrun|srun|torch\.distributed).* returned non-zero|FAILED$"
)
REQUEUE_FAILED = re.compile(r"CalledProcessError.*scontrol.{1,6}requeue")

# of lines of a log that are not part of a traceback: they name the cause whatever else there is
OOM_LINES = re.compile(
    r"oom[-_ ]kill|: task[s]? [\d,-]+: Out Of Memory|Memory cgroup out of memory"
    r"|Out of memory: Kill|Exceeded (?:job|step) memory limit(?! at some)|exceeded memory limit"
    r"|Job \S+ exceeded .*memory|OUT_OF_MEMORY",
    re.IGNORECASE,
)
WAITS_LINE = re.compile(r"^\s*waits for .+, which is not finished")
HANG_LINE = re.compile(r"\bhang: rank \d+ of \d+ has done nothing for")
CHECKPOINT_LINE = re.compile(r"the checkpoint cannot be written \(")
LEFT_LINE = re.compile(r"asked to stop; step \d+ is saved")
ENDED = re.compile(
    r"\*\*\* (?:JOB|STEP) \S+(?: ON \S+)? CANCELLED AT (?P<time>\S+)(?: DUE TO (?P<why>[A-Z ]+))?"
    r"|CANCELLED DUE TO (?P<short>[A-Z ]+)",
    re.IGNORECASE,
)
BAD_EXIT = re.compile(r"srun: error: \S+ tasks? [\d,-]+: (?P<how>.+)")
CRASH_LINES = re.compile(
    r"Fatal Python error: (?!Aborted)|: task[s]? [\d,-]+: (?:Segmentation|Bus error|Floating"
    r"|Illegal)|^Segmentation fault"
    r"|line \d+: +\d+ (?:Segmentation|Bus|Illegal)|^Bus error|^Illegal instruction"
    r"|Signal (?:11|7|4|8) \(SIG"
    r"|munmap_chunk\(\)|free\(\): invalid|malloc\(\): |double free|corrupted (?:size|double)"
    r"|(?<!Aborted )\(core dumped\)",
)
ABORTED_LINES = re.compile(r"\bAborted\b(?: \(core dumped\))?$|Fatal Python error: Aborted")
KILLED_LINES = re.compile(
    r": task[s]? [\d,-]+: Killed|Signal 9 \(SIGKILL\)|^Killed$"
    r"|line \d+: +\d+ Killed\b",
)
WEAK_OOM = re.compile(r"Exceeded (?:job|step) memory limit at some point", re.IGNORECASE)
NODE_LINES = re.compile(
    r"DUE TO NODE FAILURE|Node failure on|lost (?:contact with|communication).*node"
    r"|Job credential expired|Zero Bytes were transmitted|Communication connection failure"
    r"|aborting job.*node.*(?:down|fail)|srun: error: Node \S+ (?:is|has)",
    re.IGNORECASE,
)
ENVIRONMENT_LINES = re.compile(
    r"No module named \S+$|error while loading shared libraries"
    r"|(?:execve|exec)\S*: .*No such file|bad interpreter|Lmod has detected"
    r"|Unable to locate a module"
    r"|EnvironmentNameNotFound|EnvironmentLocationNotFound|can't open file"
    r"|cannot open shared object"
    r"|CommandNotFoundError|GLIBC\S* not found|: (?:python\S*|srun): No such file or directory"
    r"|nvidia-container-cli: |NVIDIA-SMI has failed",
)
COMMAND_LINES = re.compile(r"command not found")  # a job may do without it
SUBMISSION_LINES = re.compile(
    r"could not find submitted jobs|sbatch: error|srun: error: Only allocated"
    r"|Unable to create (?:job )?step"
    r"|srun: fatal|Batch job submission failed|JobLaunchFailure|launch failed requeued held"
    r"|[Cc]ould not open std(?:out|err|in) file"
    r"|Invalid (?:account|partition|qos|generic resource)"
    r"|error: Unable to allocate resources|temporary saved file already exists"
    r"|Unable to (?:confirm allocation|allocate)|couldn't chdir to"
    r"|Job allocation .*revoked",
)
TIMED_OUT_LINES = re.compile(
    r"this job is timed-out|Job has timed out|Job not requeued because: timed-out"
)
PREEMPTED_LINES = re.compile(r"this job is preempted")
USELESS = re.compile(
    r"^$|^submitit (?:INFO|WARNING)|^srun: (?:launch/slurm|Job step aborted|Force|Terminating)"
    r"|^slurmstepd|^srun: error|^frame #\d+|^Bypassing signal|^\s+[\^~]+\s*$|^Exception raised from"
)

# SLURM's word of an end
STATES = (
    _words(HOST_MEMORY, r"^OUT_OF_ME|OutOfMemory"),
    _words(NODE_FAILURE, r"^NODE_FAIL|NodeFail|^BOOT_FAIL|NodeDown"),
    _words(TIME_LIMIT, r"^TIMEOUT|^DEADLINE|^TimeLimit|DeadLine"),
    _words(PREEMPTED, r"^PREEMPTED|^Preempt"),
    _words(CANCELLED, r"^CANCELLED|^REVOKED"),
)
# SLURM's word of what keeps a job waiting, or from being started
REASONS = re.compile(
    r"JobLaunchFailure|launch failed|JobHeld|held|DependencyNeverSatisfied|PartitionNodeLimit"
    r"|PartitionTimeLimit|PartitionConfig|BadConstraints|Invalid(?:Account|QOS)|AccountNotAllowed"
    r"|QOSNotAllowed|MaxMemPerLimit|MaxTimePerLimit|PartitionDown|PartitionInactive|JobArrayLimit0"
    r"|ReqNodeNotAvail|AssocMax|AssocGrp\w*(?:Minutes|Limit)|QOSMax\w*PerJob\w*|QOSGrp\w*Minutes"
    r"|NonexistentAccount|Licenses?Invalid",
    re.IGNORECASE,
)
# CODE:SIGNAL of SLURM, also CODE as a shell has it
CODES = {
    "75:0": (HANG, "ended by the hang watch (exit code 75), whose line is not in the logs"),
    "0:9": (KILLED, "killed by signal 9; nothing says by whom"),
    "137:0": (KILLED, "killed by signal 9; nothing says by whom"),
    "0:15": (KILLED, "ended by signal 15; nothing says by whom"),
    "143:0": (KILLED, "ended by signal 15; nothing says by whom"),
    "0:11": (CRASH, "crashed by signal 11: a fault in compiled code"),
    "139:0": (CRASH, "crashed by signal 11: a fault in compiled code"),
    "0:7": (CRASH, "crashed by signal 7: memory that could not be had, as of /dev/shm"),
    "135:0": (CRASH, "crashed by signal 7: memory that could not be had, as of /dev/shm"),
    "0:6": (CRASH, "aborted itself (signal 6)"),
    "134:0": (CRASH, "aborted itself (signal 6)"),
    "0:53": (
        SUBMISSION,
        "SLURM could not open the log file; its folder must be there at the start",
    ),
    "0:125": (HOST_MEMORY, "out of memory, by SLURM's code 0:125"),
    "126:0": (ENVIRONMENT, "the command could not be run (exit code 126)"),
    "127:0": (ENVIRONMENT, "the command was not found (exit code 127)"),
}
