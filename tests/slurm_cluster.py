"""A real Slurm for tests: munge, a controller and two node daemons, all on this machine and in one folder."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "srun")
NODES = ("n1", "n2")
DEADLINE_S = 30.0
CONFIG = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/builtin
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=1 State=UNKNOWN
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=1 State=UNKNOWN
PartitionName=all Nodes=n1,n2 Default=YES State=UP MaxTime=INFINITE
"""


def missing() -> str:
    """Why there can be no Slurm here, or nothing."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    away = [name for name in PROGRAMS if not shutil.which(name, path=path)]
    if away:
        return f"no {', '.join(away)}: apt-get install slurm-wlm munge"
    return "" if os.geteuid() == 0 else "Slurm's daemons start jobs as root only"


@contextmanager
def slurm(folder: Path) -> Iterator[Path]:
    """Run one in ``folder``; give its slurm.conf, for SLURM_CONF."""
    for name in ("state", "spool"):
        (folder / name).mkdir()
    config = folder / "slurm.conf"
    config.write_text(CONFIG.format(host=socket.gethostname(), folder=folder, ports=_ports(3)))
    try:
        _start(folder, config)
        yield config
    finally:
        for path in sorted(folder.glob("*.pid"), reverse=True):  # slurmd before slurmctld before munged
            with suppress(ProcessLookupError, ValueError):
                os.kill(int(path.read_text()), signal.SIGTERM)


def _start(folder: Path, config: Path) -> None:
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(1024))
    key.chmod(0o400)
    files = {"socket": "munge.sock", "key-file": "munge.key", "pid-file": "munged.pid", "log-file": "munged.log"}
    options = [f"--{name}={folder / file}" for name, file in {**files, "seed-file": "munge.seed"}.items()]
    environment = {**os.environ, "SLURM_CONF": str(config), "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}
    for argv in (["munged", "--force", *options], ["slurmctld", "-c"], *(["slurmd", "-N", name] for name in NODES)):
        subprocess.run(argv, env=environment, check=True, stdin=subprocess.DEVNULL)
    deadline = time.monotonic() + DEADLINE_S
    idle = ["sinfo", "--noheader", "--states=idle", "--format=%D"]
    while subprocess.run(idle, env=environment, capture_output=True, text=True, check=False).stdout.strip() != "2":
        assert time.monotonic() < deadline, (folder / "slurmctld.log").read_text()
        time.sleep(0.1)


def _ports(count: int) -> list[int]:
    doors = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [door.getsockname()[1] for door in doors]
    for door in doors:
        door.close()
    return ports
