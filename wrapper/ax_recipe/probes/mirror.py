"""Keep a run's folder in another place as well, or bring it back from there: whatever fsspec has a file system for.

By the training environment's python, which has fsspec, s3fs, gcsfs and adlfs beside Axolotl (0.19):

``mirror.py try URL RUN``: whether RUN can be kept there, a small object be written, read and removed; prints JSON, as
the next two do.
``mirror.py list URL``: the runs below URL. ``mirror.py get URL FOLDER``: the run at URL, into FOLDER.
``mirror.py put RUN [--but=PREFIX...] [CHECKPOINT...]``: what RUN/mirror.json says of where; what is there afterwards is
written to RUN/mirrored.json. The checkpoints named are whole; no others are copied.

Each run there has a ``files.json``: its files with size, time and digest, written after all of them. Of a checkpoint
the file that makes it whole comes last, and goes first.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

LIST = "files.json"
MARKER = "trainer_state.json"  # what transformers writes last of a checkpoint
PART = ".part"  # what is being written to a folder
OUTPUT, BASE, PREPARED = "output/", "base/", "prepared/"
CHECKPOINT = re.compile(r"output/(checkpoint-\d+)/")
# The seal is of this account alone, the lock and the stop file of this moment, nodes/ of these machines; the number of
# a job is that of another one in another cluster.
OURS = re.compile(
    r"(lock|asked|seal|stop|job\.json|mirror\.json|mirrored\.json|mirror\.lock|logs/mirror\.log|nodes/.*|output/torn-.*)$"
)
GROWS = (".log", ".jsonl")  # may have become longer than the list says
# A file up to this size is sent as it was when its digest was taken, however it grows meanwhile.
SMALL = 2**24
BUCKETS = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "oci")  # have no folders that would be made first
NICE = 19
AGAIN = 5  # how often a run is brought anew whose list has become another meanwhile
LOOK_S = 0.2  # before another could begin, for python and fsspec start no faster
SECRET = re.compile(r"(TOKEN|SECRET|PASSWORD|PASSWD|KEY|KEY_ID|CONNECTION_STRING|CREDENTIALS?)$", re.IGNORECASE)
SHORTEST = 8  # a shorter value of such a variable is a word, and in every text
HINTS = {
    "s3": "AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, say who asks; AWS_ENDPOINT_URL, where",
    "gs": "gcloud auth application-default login, or GOOGLE_APPLICATION_CREDENTIALS, say who asks",
    "az": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY, or AZURE_STORAGE_CONNECTION_STRING, say who asks",
}

# What a list says beside its files.
TOLD: dict[str, Any] = {
    **dict.fromkeys(("run", "recipe", "status", "host", "writer"), str),
    "checkpoint": str | None,
    "time": int | float,
    "files": dict,
}

Marks = dict[str, dict[str, Any]]


class DamagedError(ValueError):
    """What lists the files of a run is not whole."""


class Place:
    """A folder in any storage; names of files are relative to it."""

    def __init__(self, url: str) -> None:
        from fsspec.core import url_to_fs

        self.url = url.rstrip("/")
        self.storage, root = url_to_fs(self.url)
        self.root = root.rstrip("/")
        kinds = self.storage.protocol
        self.kinds = {kinds} if isinstance(kinds, str) else set(kinds)

    def path(self, name: str) -> str:
        """A file's name as its storage has it."""
        return f"{self.root}/{name}"

    def is_within(self, folder: Path) -> bool:
        """Whether it is that very folder, or in it."""
        real = Path(self.root).resolve()
        return "file" in self.kinds and folder.resolve() in (real, *real.parents)

    def read(self, name: str) -> bytes | None:
        """What is in a file; None where it is not there."""
        try:
            content: bytes = self.storage.cat_file(self.path(name))
        except (FileNotFoundError, NotADirectoryError):
            return None
        return content

    def send(self, name: str, what: bytes | Path) -> None:
        """Write a file whole or not at all: objects are so by themselves, files are renamed."""
        target = self.path(name)
        if not self.kinds.intersection(BUCKETS):
            self.storage.makedirs(target.rpartition("/")[0], exist_ok=True)
        partial = f"{target}{PART}" if "file" in self.kinds else target
        try:
            if isinstance(what, bytes):
                self.storage.pipe_file(partial, what)
            else:
                self.storage.put_file(str(what), partial)
            if partial != target:
                Path(partial).replace(target)
        finally:
            if partial != target:
                Path(partial).unlink(missing_ok=True)

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        with contextlib.suppress(FileNotFoundError):
            self.storage.rm_file(self.path(name))

    def sizes(self) -> dict[str, int]:
        """Every file that is there, with its bytes."""
        try:
            found = self.storage.find(self.root, detail=True)
        except FileNotFoundError:
            return {}
        return {name[len(self.root) + 1 :]: int(about["size"]) for name, about in found.items()}

    def listed(self) -> dict[str, Any]:
        """What files.json says; nothing where there is none.

        :raises DamagedError: it holds something else.
        """
        content = self.read(LIST)
        if not content:
            return {}
        try:
            value = json.loads(content)
        except ValueError as error:
            raise DamagedError(f"{LIST} of {self.url} is damaged: {error}") from error
        if not (isinstance(value, dict) and all(isinstance(value.get(key, ...), kind) for key, kind in TOLD.items())):
            raise DamagedError(f"{LIST} of {self.url} is damaged: it does not list a run")
        return value


def words(error: Exception) -> str:
    """What an error says, in a line, and no secret of the environment in it."""
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, FileNotFoundError) and " " not in text:  # fsspec says only the path
        text = "nothing is there"
    for name, value in os.environ.items():
        if SECRET.search(name) and len(value) >= SHORTEST:
            text = text.replace(value, "***")
    return text


def hint(url: str, error: Exception) -> str:
    """What to do about an error of the storage at ``url``."""
    kind = url.partition("://")[0]
    if isinstance(error, ImportError):
        return "install it beside Axolotl, in its environment"
    if "protocol not known" in str(error).lower():
        return "s3://, gs://, az://, file:// and a folder's path are known, and what else fsspec has"
    if isinstance(error, DamagedError):
        return f"remove {LIST} there: the next copy of the run writes it anew"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "make some space"
    if isinstance(error, FileNotFoundError):
        is_folder = "://" not in url or kind in ("file", "local")
        return f"{'mount it' if is_folder else 'make the bucket first'}, or mend its name"
    return HINTS.get(
        {"s3a": "s3", "gcs": "gs", "abfs": "az", "abfss": "az"}.get(kind, kind), "mount it, or mend its rights"
    )


def attempt(url: str, run: Path) -> dict[str, Any]:
    """Write, read and remove a small object, where ``run`` is to be kept."""
    if Place(f"{url}/{run.name}").is_within(run):
        return {"error": "the run itself is there", "hint": "name another folder, on another disk if that may go"}
    place, name, content = Place(url), f".ax-recipe-{uuid.uuid4().hex}", b"ax-recipe looks whether it may write here\n"
    place.send(name, content)
    same = place.read(name) == content
    place.remove(name)
    return {} if same else {"error": "what was written there is read otherwise", "hint": "it is no storage for a run"}


def runs(url: str) -> dict[str, Any]:
    """The runs below ``url``, or whether it is one itself."""
    place = Place(url)
    if told := place.listed():
        return {"run": told["run"], "runs": {told["run"]: brief(told)}}
    names = [str(path).rstrip("/").rpartition("/")[2] for path in place.storage.ls(place.root, detail=False)]
    found = {name: found_at(f"{place.url}/{name}") for name in sorted(names)}
    return {"run": "", "runs": {name: told for name, told in found.items() if told}}


def found_at(url: str) -> dict[str, Any]:
    """What is told of one place; of one that cannot be read, such as another account's, why."""
    try:
        told = Place(url).listed()
    except (DamagedError, PermissionError) as error:
        return {"error": words(error)}
    return brief(told) if told else {}


def brief(told: dict[str, Any]) -> dict[str, Any]:
    """A list without its files: how many they are, and their bytes."""
    files: Marks = told["files"]
    return {**told, "files": len(files), "bytes": sum(mark.get("size", 0) for mark in files.values())}


# --- there ---


class Copy:
    """One copy of a run's folder; ``but`` are beginnings of names that are being written now."""

    def __init__(self, run: Path, but: tuple[str, ...], checkpoints: list[str]) -> None:
        self.run, self.but, self.checkpoints = run, but, checkpoints
        self.where: dict[str, Any] = json.loads((run / "mirror.json").read_text())
        self.url = f"{self.where['url']}/{run.name}"
        self.sent, self.inodes = 0, dict[tuple[int, int], str]()
        self.new: Marks = {}

    def go(self) -> dict[str, Any]:
        """Copy what is new, then say so in the list, then remove what is gone; say what is there."""
        self.place = Place(self.url)
        told = self.place.listed()
        if told.get("writer") not in (None, self.where["writer"], self.where["before"]):
            raise OSError(f"a run of this name is kept there by {told.get('host')}, which goes on with it")
        if not (self.run / "plan.json").is_file():
            raise OSError(f"{self.run} is no run any more: what is there stays as it is")
        self.old: Marks = told.get("files", {})
        if "file" in self.place.kinds:  # logs and answers quote the data
            Path(self.place.root).mkdir(mode=0o700, parents=True, exist_ok=True)
        self.there = self.place.sizes()
        for name in self.checkpoints:
            self._send_checkpoint(f"{OUTPUT}{name}/")
        for key, path in self._others():
            with contextlib.suppress(FileNotFoundError):  # gone since it was seen
                self._send(key, path)
        stays = not newest(self.new)  # the last checkpoint there goes only for a newer one
        self.new |= {
            key: mark for key, mark in self.old.items() if (stays if CHECKPOINT.match(key) else self._unsettled(key))
        }
        about = self._about()
        told = {**about, "files": self.new}
        self.place.send(LIST, json.dumps(told, indent=0).encode())
        self._remove_others()
        return {**brief(told), "sent": self.sent}

    def _about(self) -> dict[str, Any]:
        state = json.loads((self.run / "state.json").read_text())
        waits = [stage["state"] for stage in state["stages"] if stage["state"] not in ("done", "skipped")]
        return {
            "run": self.run.name,
            "recipe": state["recipe"],
            "status": waits[0] if waits else "finished",
            "checkpoint": newest(self.new),
            "time": time.time(),
            "host": os.uname().nodename,
            "writer": self.where["writer"],
        }

    def _send_checkpoint(self, prefix: str) -> None:
        folder = self.run / prefix
        files = sorted(path for path in walked(folder) if path.is_file())
        before = dict(self.new)
        try:
            for path in sorted(files, key=lambda path: path.name == MARKER):
                self._send(path.relative_to(self.run).as_posix(), path)
            if not (folder / MARKER).is_file():
                raise FileNotFoundError(folder / MARKER)
        except FileNotFoundError:  # a newer one has taken its place meanwhile
            self.new = before

    def _others(self) -> Iterator[tuple[str, Path]]:
        """All files but those of checkpoints; state.json last, for with it a folder is a run."""
        found = dict(self._walked())
        order = sorted(found, key=lambda key: (key == "state.json", "/" not in key, not key.startswith(OUTPUT), key))
        yield from ((key, found[key]) for key in order)

    def _walked(self) -> Iterator[tuple[str, Path]]:
        for path in (each for folder in (self.run, *self._moved()) for each in walked(folder)):
            key = path.relative_to(self.run).as_posix()
            hidden = path.name.startswith(".") and not key.startswith(OUTPUT)  # half-written, then renamed
            if path.is_file() and not (hidden or OURS.match(key) or self._unsettled(key)):
                yield key, path
        plan = json.loads((self.run / "plan.json").read_text())
        base = Path(plan["base"])
        if plan["scratch"] and (base / "made.json").is_file():  # made here, so it is nowhere else
            yield from ((f"{BASE}{path.name}", path) for path in base.iterdir() if path.is_file())

    def _moved(self) -> list[Path]:
        """Folders of the run that lie on another disk, and are links here."""
        whole = self.run.resolve()
        links = [path for path in self.run.iterdir() if path.is_symlink() and path.is_dir()]
        return [path for path in links if path.resolve() not in (whole, *whole.parents)]

    def _unsettled(self, key: str) -> bool:
        """Whether a file is left as it is there: one that is being written, or of a checkpoint."""
        tokenised = key.startswith(PREPARED) and not self.checkpoints
        return tokenised or key.startswith(self.but) or bool(CHECKPOINT.match(key))

    def _send(self, key: str, path: Path) -> None:
        status = path.stat()
        then = self.old.get(key, {})
        first = self.inodes.setdefault((status.st_dev, status.st_ino), key)
        if first != key and first in self.new:  # a hard link: the weights for Ollama are those of the merge
            self.new[key] = {"same": first}
            return
        same = then.get("size") == status.st_size and then.get("mtime_ns") == status.st_mtime_ns
        if same and self.there.get(key) == status.st_size:
            self.new[key] = then
            return
        if status.st_size <= SMALL:
            content = path.read_bytes()
            size, found = len(content), hashlib.sha256(content).hexdigest()
            self.place.send(key, content)
        else:
            size, found = status.st_size, digest(path, status.st_size)
            self.place.send(key, path)
        self.new[key] = {"size": size, "sha256": found, "mtime_ns": status.st_mtime_ns}
        self.sent += size

    def _remove_others(self) -> None:
        """What we once wrote and is gone here, halves of a killed copy too; files of others in that folder stay."""
        known = self.old.keys() | self.new.keys()
        ours = {key for key in self.there if key.removesuffix(PART) in known or CHECKPOINT.match(key)}
        for key in sorted(ours - self.new.keys(), key=lambda key: (not key.endswith(f"/{MARKER}"), key)):
            self.place.remove(key)
            with contextlib.suppress(OSError):  # a folder of files, where it is empty now
                if "file" in self.place.kinds:
                    Path(self.place.path(key)).parent.rmdir()


def walked(folder: Path) -> Iterator[Path]:
    """Every file below; a folder that is deleted meanwhile, as old checkpoints are, has none.

    :raises OSError: one cannot be read. What is in it is not gone, and must not go there.
    """

    def refuse(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            raise error

    for parent, _, names in os.walk(folder, onerror=refuse):
        yield from (Path(parent, name) for name in names)


def newest(files: Marks) -> str | None:
    """The newest checkpoint of a list, all of which are whole."""
    return next(iter(checkpoints(files)), None)


def checkpoints(files: Marks) -> list[str]:
    """The checkpoints of a list, the newest first."""
    names = {found[1] for key in files if (found := CHECKPOINT.match(key))}
    return sorted(names, key=lambda name: -int(name.rpartition("-")[2]))


def before(path: Path) -> dict[str, Any]:
    """What the copy before this one said; nothing where that is damaged, for this one says it anew."""
    try:
        told = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return told if isinstance(told, dict) else {}


def put(run: Path, but: tuple[str, ...], checkpoints: list[str]) -> int:
    """Copy a run; RUN/mirrored.json says how that went."""
    os.nice(NICE)
    path, began, copy = run / "mirrored.json", time.time(), Copy(run, but, checkpoints)
    with (run / "mirror.lock").open("ab") as lock:
        with contextlib.suppress(OSError):  # a shared file system may have no locks
            fcntl.flock(lock, fcntl.LOCK_EX)  # a runner that was killed may have left a copy at work
        told = before(path)
        told = told if told.get("url") == copy.url else {}
        try:
            told = {**copy.go(), "error": "", "hint": "", "took_s": time.time() - began, "url": copy.url}
        except Exception as error:  # noqa: BLE001 - s3fs, gcsfs, adlfs have errors of their own, without a parent
            told |= {"error": words(error), "hint": hint(copy.url, error), "failed": time.time(), "url": copy.url}
        partial = run / ".mirrored.json"
        partial.write_text(json.dumps(told))
        partial.replace(path)
    print(f"{time.strftime('%H:%M:%S')} {told['error'] or 'copied'} ({told.get('sent', 0)} bytes)", flush=True)
    return 1 if told["error"] else 0


# --- and back ---


def get(url: str, folder: Path) -> dict[str, Any]:
    """Bring the run at ``url`` into ``folder``: all but older checkpoints, each file held against the list."""
    place = Place(url)
    told = place.listed()
    if not told:
        raise FileNotFoundError(f"no run there: {url}/{LIST} is missing")
    for _ in range(AGAIN):
        brought = _bring_all(place, told["files"], folder)
        newer = place.listed() if brought["wrong"] else {}
        if not newer or newer["time"] == told["time"]:
            break
        told = newer  # of a run that goes on: the files of the list before are no longer there
    here = [path for path in folder.rglob("*") if path.is_file() and path != folder / "lock"]
    size = sum(path.stat().st_size for path in here)
    return {**told, "files": len(here), "bytes": size, **brought}


def _bring_all(place: Place, files: Marks, folder: Path) -> dict[str, Any]:
    """Bring what a list names; give the checkpoint that came, and what is wrong with the files."""
    for key in (*files, *(str(mark.get("same", "")) for mark in files.values())):
        if key.startswith("/") or ".." in key.split("/"):
            raise ValueError(f"{place.url}/{LIST} names a file outside of the run: {key}")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    (folder / "logs").mkdir(exist_ok=True)
    found, wrong = _checkpoint(place, files, folder)
    others = [key for key in files if not CHECKPOINT.match(key) and not OURS.match(key)]
    for key in sorted(others, key=lambda key: (key == "state.json", "same" in files[key])):
        wrong += [flaw] if (flaw := bring(place, files, key, folder)) else []
    return {"checkpoint": found, "wrong": wrong}


def _checkpoint(place: Place, files: Marks, folder: Path) -> tuple[str | None, list[str]]:
    """Bring the newest checkpoint that is whole there; say what is wrong with those after it."""
    wrong: list[str] = []
    for name in checkpoints(files):
        keys = sorted(
            (key for key in files if key.startswith(f"{OUTPUT}{name}/")), key=lambda key: key.endswith(f"/{MARKER}")
        )
        flaw = next(filter(None, (bring(place, files, key, folder) for key in keys)), "")
        if not flaw:
            return name, wrong
        shutil.rmtree(folder / OUTPUT / name, ignore_errors=True)
        wrong.append(f"{name} is left there: {flaw}")
    return None, wrong


def bring(place: Place, files: Marks, key: str, folder: Path) -> str:
    """Bring one file, unless it is here already; say what is wrong with it, or nothing."""
    target, mark = folder / key, files[key]
    target.parent.mkdir(parents=True, exist_ok=True)
    if "same" in mark:
        target.unlink(missing_ok=True)
        source = folder / str(mark["same"])
        if not source.is_file():
            return f"{key} is not there"
        try:
            os.link(source, target)
        except OSError:  # this file system has no links
            shutil.copyfile(source, target)
        return ""
    size = int(mark["size"])
    if not (target.is_file() and target.stat().st_size == size and digest(target, size) == mark["sha256"]):
        try:
            place.storage.get_file(place.path(key), str(target))
        except FileNotFoundError:
            return f"{key} is not there"
    has = target.stat().st_size
    if has > size and key.endswith(GROWS):
        os.truncate(target, size)
    elif has != size:
        return f"{key} has {has} bytes instead of {size}"
    if digest(target, size) != mark["sha256"]:
        return f"{key} was changed there"
    os.utime(target, ns=(int(mark["mtime_ns"]), int(mark["mtime_ns"])))
    return ""


def digest(path: Path, size: int) -> str:
    """The sha256 of a file's first ``size`` bytes."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        while size > 0 and (piece := file.read(min(size, 2**20))):
            found.update(piece)
            size -= len(piece)
    return found.hexdigest()


def end_with(parent: int) -> None:
    """End this process when ``parent``, which has the folder's lock, has ended: it is no longer ours to write to."""
    while os.getppid() == parent:
        time.sleep(LOOK_S)
    os._exit(1)


def main() -> int:
    """Do one of them."""
    verb, where, *rest = sys.argv[1:]
    if verb == "put":
        but = tuple(word.removeprefix("--but=") for word in rest if word.startswith("--but="))
        return put(Path(where), but, [word for word in rest if not word.startswith("--")])
    if verb == "get":
        threading.Thread(target=end_with, args=(os.getppid(),), daemon=True).start()
    try:
        told = runs(where) if verb == "list" else {"try": attempt, "get": get}[verb](where, Path(rest[0]))
    except Exception as error:  # noqa: BLE001 - as above
        told = {"error": words(error), "hint": hint(where, error)}
    print(json.dumps(told))
    return 0


if __name__ == "__main__":
    sys.exit(main())
