"""Print the rows of a data set that only the `datasets` library reads (parquet, arrow, the hub), one JSON a line.

    python read_rows.py '{"path": "owner/name", "split": "train", "name": null, "revision": null, "data_files": null}'

Streams, so that nothing is downloaded that is not read. What JSON cannot say (images, bytes) is left out.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from datasets import IterableDatasetDict, load_dataset, load_from_disk

LOADERS = {".parquet": "parquet", ".arrow": "arrow", ".csv": "csv", ".txt": "text"}


def rows(asked: dict[str, Any]) -> Any:
    """The rows that are asked for, as the library reads them."""
    path, split = Path(asked["path"]), asked.get("split") or "train"
    if (path / "state.json").is_file() or (path / "dataset_dict.json").is_file():
        found = load_from_disk(str(path))
        return found[split] if hasattr(found, "keys") else found
    more = {key: asked[key] for key in ("name", "revision", "data_files") if asked.get(key)}
    streams = "[" not in split  # a part of a split cannot be streamed
    if path.is_file():
        loader = asked.get("ds_type") or LOADERS.get(path.suffix, "json")
        return load_dataset(loader, data_files=str(path), split=split, streaming=streams)
    found = load_dataset(asked["path"], split=split, streaming=streams, **more)
    return found["train"] if isinstance(found, IterableDatasetDict) else found


def main() -> None:
    """Print each row."""
    for row in rows(json.loads(sys.argv[1])):
        print(json.dumps(row, default=lambda _: None))


if __name__ == "__main__":
    main()
