"""Broken streams, and files whose checksum is right but whose content is not what the program writes."""

import copy
import hashlib
import json
import os
import random
import struct
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

from faults.runs import ARGUMENTS, Count
from innerloop.errors import InnerloopError

SHELLS = [
    "{} >&-",
    "{} 2>&-",
    "{} >&- 2>&- <&-",
    "{} > /dev/full",
    "{} 2> /dev/full",
    "{} > /dev/full 2>&1",
    "set -o pipefail; {} | true",
    "set -o pipefail; {} 2>&1 | head -n 1 > /dev/null",
]


def archive(path: Path) -> Path:
    """A small archive of what is no image."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for i in range(20):
            file.writestr(f"a/{i:02}.png", bytes(range(i, i + 200)))
    return path


def tried(folder: Path) -> Count:
    """Train with each kind of broken stream: trained, saved and evaluated all the same."""
    count = Count()
    command = " ".join([sys.executable, "-m", "innerloop", "train", *ARGUMENTS["episodes"]])
    for i, shell in enumerate(SHELLS):
        run = folder / f"stream-{i}"
        environment = {**os.environ, "INNERLOOP_CACHE": str(folder / "cache")}
        done = subprocess.run(
            ["bash", "-c", shell.format(f"{command} --run-dir={run}")],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        count.tried += 1
        count.tracebacks += "Traceback" in done.stderr + done.stdout
        if done.returncode or not (run / "checkpoints" / "step-000000040").is_dir():
            count.lost += 1
            count.note(f"{shell}: status {done.returncode}: {done.stderr[-300:]}")
    return count


def fuzzed(run: Path, number: int = 300) -> Count:
    """Configurations with other values under a right checksum, and heads of weights that are none."""
    from innerloop import artifacts, workloads
    from innerloop.runs import rundir, sealed

    count, chance = Count(), random.Random(0)
    kept = (run / "config.json").read_bytes()
    values = sealed.read(run / "config.json")
    for _ in range(number):
        sealed.write(run / "config.json", _spoilt(values, chance))
        _judge(count, lambda: rundir.existing(run, workloads.registered()))
    (run / "config.json").write_bytes(kept)
    model = run / "model"
    weights, described = (model / "weights.safetensors").read_bytes(), json.loads((model / "config.json").read_text())
    for _ in range(number):
        size = struct.unpack("<Q", weights[:8])[0]
        head = bytearray(weights[8 : 8 + size])
        for _ in range(chance.randint(1, 4)):
            head[chance.randrange(size)] = chance.randrange(256)
        content = struct.pack("<Q", chance.choice([size, size, size + 1, 2**63, 0])) + bytes(head) + weights[8 + size :]
        checked = {**described, "sha256": {**described["sha256"]}}
        checked["sha256"]["weights.safetensors"] = hashlib.sha256(content).hexdigest()
        (model / "weights.safetensors").write_bytes(content)
        (model / "config.json").write_text(json.dumps(checked))
        _judge(count, lambda: artifacts.read(model))
    (model / "weights.safetensors").write_bytes(weights)
    (model / "config.json").write_text(json.dumps(described, indent=1))
    return count


def _judge(count: Count, read: Any) -> None:
    count.tried += 1
    try:
        read()
    except InnerloopError:
        count.told += 1
    except Exception as error:
        count.tracebacks += 1
        count.note(f"{type(error).__name__}: {error}")


def _spoilt(values: Any, chance: random.Random) -> Any:
    """A JSON value with one part of it exchanged, taken away, or added."""
    values = copy.deepcopy(values)
    part = values
    while True:
        names = list(part) if isinstance(part, dict) else range(len(part))
        name = chance.choice(list(names))
        if isinstance(part[name], dict | list) and part[name] and chance.random() < 0.8:
            part = part[name]
            continue
        odd = [None, True, -1, 0, 10**400, 1e308, "", "x" * 1000, [], {}, [[]], {"a": 1}, "nan", "é"]
        if chance.random() < 0.2 and isinstance(part, dict):
            del part[name]
        elif chance.random() < 0.2 and isinstance(part, dict):
            part[f"{name}_"] = part[name]
        else:
            part[name] = chance.choice(odd)
        return values
