"""Several processes: what ends one of them from outside, and the echoes of its end in the others."""

from __future__ import annotations

from ax_recipe.diagnose import remedies
from ax_recipe.diagnose.cause import Cause, Remedy, patterns, sign

_NCCL = Remedy(
    "Let NCCL say what it waits for; where GPUs are not linked, keep it off direct copies.",
    command="NCCL_DEBUG=INFO NCCL_P2P_DISABLE=1 {again}",
)

CAUSES = (
    Cause(
        "port-in-use",
        "The port at which the ranks meet is taken{what}: by another training, or by one that was not ended.",
        patterns(
            r"EADDRINUSE|[Aa]ddress already in use|another process is utilizing it",
            r"server socket has failed to (?:listen|bind)[^\n]*?(?:port: |:)(?P<what>\d{2,5})",
        ),
        (),
        (
            Remedy(
                "Take a free port.",
                command="axolotl train {file} --launcher torchrun -- --standalone --nproc_per_node=gpu",
            ),
            Remedy("See who holds it, and end it if it is a leftover.", command="ss -ltnp | grep 29500"),
        ),
        "measured with Axolotl 0.19",
    ),
    Cause(
        "rendezvous",
        "The ranks did not find each other: a wrong address or port, a firewall, or a node that never came.",
        patterns(
            r"RendezvousTimeoutError|RendezvousConnectionError|RendezvousClosedError|RendezvousStateError",
            r"The client socket has (?:timed out|failed to connect)",
            r"DistStoreError|Timed out after \d+ seconds waiting for clients",
            r"worker group startup timed out|No available node types can fulfill",
            r"Bootstrap : no socket interface found|Call to connect returned",
        ),
        (),
        (
            Remedy(
                "Give every node the same address, port and id, and name the network that joins them.",
                command="NCCL_SOCKET_IFNAME=eth0 axolotl train {file} --launcher torchrun -- --nnodes=2 --node_rank=0 "
                "--master_addr=HOST --master_port=29500 --rdzv_id=1 --nproc_per_node=gpu",
            ),
        ),
        "measured with Axolotl 0.19; PyTorch docs/elastic",
        broad=True,
    ),
    Cause(
        "nccl-timeout",
        "A rank waited in vain for the others: one of them hung, was far slower, or left without a word.",
        patterns(
            r"(?:Rank (?P<rank>\d+)\] )?Watchdog caught collective operation timeout",
            r"Timed out waiting \d+ms for (?:recv|send) operation|Some NCCL operations have failed or timed out",
            r"DistBackendError[^\n]*[Tt]imeout|DDP expects same model across all ranks",
        ),
        (
            sign("Watchdog caught", r"(?:Rank (?P<rank>\d+)\] )?Watchdog caught collective operation timeout"),
            sign("NCCL operations have failed"),
            sign("got stuck", r"watchdog got stuck for \d+ seconds without making progress"),
        ),
        (
            Remedy("Tokenise first: no rank then waits for it.", command="axolotl preprocess {file}"),
            Remedy("Wait longer (seconds), where a save or an evaluation takes so long.", {"ddp_timeout": 7200}),
            _NCCL,
        ),
        "Axolotl docs/nccl, issues 592, 889, 967",
        echo=1,
    ),
    Cause(
        "ranks-alone",
        "The ranks do not belong to one training, or have no device each.",
        patterns(
            r"Cannot access accelerator device when none is available",
            r"invalid device ordinal",
            r"Duplicate GPU detected",
            r"precision on a different device than the one you're training on",
            r"device_map='auto'` in any distributed mode",
        ),
        (),
        (
            Remedy("One rank for each GPU that this process sees.", command="axolotl train {file} --launcher python"),
            Remedy(
                "On the CPU: say so, and how much memory there is.",
                {"max_memory": {"cpu": "16GiB"}},
                "ACCELERATE_USE_CPU=true {again}",
            ),
        ),
        "measured with Axolotl 0.19",
    ),
    Cause(
        "connection-lost",
        "A rank lost the connection to another, which has died or cannot be reached.",
        patterns(
            r"Connection closed by (?:remote )?peer|Connection reset by peer|[Rr]emote process exited",
            r"ncclRemoteError|ncclSystemError|ncclInternalError|ncclUnhandledCudaError|NCCL error in",
            r"NCCL communicator was aborted|ConnectionResetError|BrokenPipeError",
            r"DistNetworkError|Failed to recv, got 0 bytes|Broken pipe|Socket closed",
        ),
        (
            sign("NCCL WARN", r"NCCL WARN .*(?:Connection (?:closed|refused|reset)|Call to \w+ .*failed)"),
            sign("TCPStore", r"(?:Failed to check the \"should dump\" flag on|recvValue failed on) "),
        ),
        (_NCCL, remedies.RESUME),
        "measured with Axolotl 0.19; NCCL issues 1235, 1514",
        echo=1,
    ),
    Cause(
        "native-crash",
        "A process died in native code{what}: a library or a driver, not Python, and most often a wrong build of one.",
        patterns(r"Fatal Python error: (?P<what>.+)", r"died with <Signals\.(?P<what>SIGSEGV|SIGILL|SIGFPE|SIGABRT)"),
        (
            sign("egmentation fault", r"^(?:Fatal Python error: )?[Ss]egmentation fault"),
            sign("Illegal instruction", r"^Illegal instruction"),
            sign("SIG", r"Signal (?:4|8|11) \((?P<what>SIGILL|SIGFPE|SIGSEGV)\) received by PID"),
        ),
        (
            Remedy("See where: Python then prints the stack.", command="PYTHONFAULTHANDLER=1 {again}"),
            Remedy("Leave kernels of others out of it.", {"attn_implementation": remedies.torchs_attention}),
        ),
        "Python docs/faulthandler",
        broad=True,
    ),
    Cause(
        "rank-died",
        "One of the ranks ended, and did not say why.",
        patterns(
            r"DataLoader worker \(pid\(?s?\)? [^)]*\) exited unexpectedly|NodeDiedError|ActorDiedError",
            r"RuntimeError: Pin memory thread exited unexpectedly",
        ),
        (
            sign("Aborted", r"^Aborted(?: +\(core dumped\))?$"),
            sign("SIGABRT", r"Signal 6 \((?P<what>SIGABRT)\) received by PID"),
            sign("terminate called", r"^terminate called after throwing an instance of '(?P<what>[\w:]+)"),
        ),
        (
            Remedy(
                "Keep what each rank says apart.",
                command="axolotl train {file} --launcher torchrun -- --nproc_per_node=gpu --tee 3 --log_dir rank-logs",
            ),
            remedies.RESUME,
        ),
        "measured with Axolotl 0.19",
        echo=2,
    ),
)
