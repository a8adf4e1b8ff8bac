"""The fault table: runs that are killed, stopped, cut off from their mirror, on a full disk, with damaged checkpoints or shards.

    python bench/faults.py --out bench/results/faults.json
    python bench/faults.py --short --ranks 2

Every run is a real process (with --ranks, as many under torchrun) on digits with a small net, and has to end with the weights,
the lines of metrics.jsonl and the test accuracy of the run that was left alone, to the last bit. What else a run has to show is
counted as `shown`: that it noticed the fault, named it, refused to go on. The moments are drawn from --seed and chosen by what
the run reports. --rows makes some of them again; what --out has of the others is kept. Rows:

    kill            kill -9 of a random rank; with several ranks the others have to end by themselves
    stop            SIGTERM
    outage          the mirror (S3 on loopback) refuses, fails, cuts off or is silent; every second time the machine is lost too:
                    killed, its folder deleted, gone on with from the mirror
    disk            the disk is full when a checkpoint is written
    damage          kill -9, and a byte of the newest checkpoint is changed
    shard           kill -9, and a shard of the training data is cut short: a message, no wrong result; then it is put back
"""

import argparse
import contextlib
import functools
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import outages
import psutil
from full_disk import fill, small_disk

from groundup.basis.files import write_json
from groundup.runs.folder import environment

TIMES = {"kill": 20, "stop": 10, "outage": 5, "disk": 3, "damage": 5, "shard": 5}
PER_RUN = {"kill": 5, "stop": 5, "damage": 5}  # so many in one run; a start takes longer than the run
BATCH = 24
NET = ["digits", "model.width=8", "track.tensorboard=false", "checkpoint={every: 1step, keep: 3}"]
IMAGES = ["data.limit=450", "data.validation=0.667", "evaluate.batch_size=4"]
BUCKET = "faults"
# What a run of a row may have to show besides its result.
TO_SHOW = ("steps_went_on", "noticed", "said_so", "refused", "named")


@dataclass
class Case:
    """One run folder and the processes that train it. `said`: all that they wrote to standard error."""

    folder: Path
    arguments: list[str]
    ranks: int
    extra: dict[str, str] = field(default_factory=dict)
    process: "subprocess.Popen[str] | None" = None
    resumed_in: list[float] = field(default_factory=list)

    @property
    def run(self) -> Path:
        return self.folder / "run"

    def start(self, what: str | None = None) -> None:
        """`train` in an empty folder, else `resume`; `what`: the address of a mirror to resume from."""
        resuming = what is not None or (self.run / "recipe.yaml").exists()
        command = ["resume", what or "run"] if resuming else ["train", *self.arguments]
        command += [] if resuming and what is None else ["--run-folder", "run"]
        module = ["-m", "groundup"]
        if self.ranks > 1:
            torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={self.ranks}"]
            module = [*torchrun, *module]
        with open(self.folder / "stderr", "a") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, *module, *command],
                cwd=self.folder,
                env={**os.environ, "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1", **self.extra},
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                text=True,
                start_new_session=True,
            )

    def said(self) -> str:
        return (self.folder / "stderr").read_text()

    def steps(self) -> list[int]:
        """The steps of the checkpoints that are there."""
        folder = self.run / "checkpoints"
        names = os.listdir(folder) if folder.is_dir() else []
        return sorted(int(name.removeprefix("step-")) for name in names if name.startswith("step-"))

    def step(self) -> int:
        return max(self.steps(), default=-1)

    def wait(self, happened: Callable[[], bool], seconds: float = 240) -> bool:
        """Until `happened`; False if the run ended first."""
        assert self.process is not None
        end = time.monotonic() + seconds
        while not happened():
            if self.process.poll() is not None:
                return happened()
            if time.monotonic() > end:
                raise RuntimeError(f"nothing for {seconds:.0f} s: {self.said()[-2000:]}")
            time.sleep(0.001)
        return True

    def finish(self, seconds: float = 300) -> int:
        """The exit status of what is running."""
        assert self.process is not None
        return self.process.wait(seconds)

    def ranks_running(self) -> list[psutil.Process]:
        """The training processes, those of torchrun's children that are groundup."""
        assert self.process is not None
        if self.ranks == 1:
            return [psutil.Process(self.process.pid)]
        children = psutil.Process(self.process.pid).children(recursive=True)
        return [child for child in children if "groundup" in " ".join(child.cmdline())]

    def end(self) -> None:
        """Kill what is left."""
        if self.process is not None and self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def result(self) -> dict[str, Any]:
        """What must be the same whatever happened: weights, measurements without times, accuracy."""
        lines = [json.loads(line) for line in (self.run / "metrics.jsonl").read_text().splitlines()]
        summary = json.loads((self.run / "summary.json").read_text())
        return {
            "weights": (self.run / "checkpoints" / "last" / "model.safetensors").read_bytes(),
            "metrics": [{k: v for k, v in line.items() if k not in ("seconds", "images_per_second")} for line in lines],
            "result": {key: summary[key] for key in ("steps", "top1", "top5", "nll", "images")},
        }


@dataclass
class Table:
    """Makes the rows. `epochs`: length of a run; a kill needs room to happen in."""

    folder: Path
    draw: random.Random
    ranks: int = 1
    epochs: int = 8
    _alone: dict[str, dict[str, Any]] = field(default_factory=dict)
    _number: int = 0

    def case(self, *overrides: str, name: str = "", source: list[str] | None = None, **extra: str) -> Case:
        """A run that has not begun."""
        self._number += 1
        folder = self.folder / f"{self._number:03d}-{name or 'run'}"
        folder.mkdir(parents=True)
        length = f"train={{epochs: {self.epochs}, batch_size: {BATCH}, threads: 1}}"
        cache = {"GROUNDUP_CACHE": str(self.folder / "cache")}
        return Case(folder, [*NET, *(source or IMAGES), length, *overrides], self.ranks, {**cache, **extra})

    def alone(self, source: list[str] | None = None) -> dict[str, Any]:
        """The result of the run that was left alone."""
        key = " ".join(source or IMAGES)
        if key not in self._alone:
            case = self.case(name="alone", source=source)
            case.start()
            if case.finish() != 0:
                raise RuntimeError(f"the run that was left alone failed: {case.said()[-2000:]}")
            self._alone[key] = case.result()
        return self._alone[key]

    def moment(self, case: Case) -> bool:
        """Wait for a random moment of the run: some checkpoints further, then anywhere in a step. False if it ended first."""
        target = max(case.step(), 0) + self.draw.randint(1, 5)
        reached = case.wait(lambda: case.step() >= target)
        time.sleep(self.draw.random() * 0.1)
        assert case.process is not None
        return reached and case.process.poll() is None

    def kill_one(self, case: Case) -> None:
        """kill -9 of one rank; what the others do about it is waited for."""
        self.draw.choice(case.ranks_running()).kill()
        case.finish()

    def go_on(self, case: Case, expected: dict[str, Any], what: str | None = None) -> dict[str, Any]:
        """Resume to the end and compare."""
        case.start(what)
        status = case.finish()
        if status != 0:
            return {"finished": False, "identical": False, "said": case.said()[-1500:]}
        result = case.result()
        differs = [key for key in expected if result[key] != expected[key]]
        return {"finished": True, "identical": not differs, **({"differs": differs} if differs else {})}

    # The rows. Each yields a dictionary per run: how often the fault was made, and how it ended.

    def kill(self, times: int) -> Iterator[dict[str, Any]]:
        yield from self._chains("kill", times, self.kill_one)

    def stop(self, times: int) -> Iterator[dict[str, Any]]:
        def stop(case: Case) -> None:
            assert case.process is not None
            case.process.terminate()
            status = case.finish()
            if self.ranks == 1 and status != 143:
                raise RuntimeError(f"SIGTERM ended with status {status}: {case.said()[-1500:]}")

        yield from self._chains("stop", times, stop)

    def damage(self, times: int) -> Iterator[dict[str, Any]]:
        def kill_and_damage(case: Case) -> None:
            case.wait(lambda: len(case.steps()) > 1)  # without one before it, the run is refused and not gone on with
            self.kill_one(case)
            newest = case.run / "checkpoints" / f"step-{case.step():07d}"
            file = newest / self.draw.choice(["model.safetensors", "state.pt", "checksums.json"])
            content = bytearray(file.read_bytes())
            content[self.draw.randrange(len(content))] ^= 0xFF
            file.write_bytes(content)

        yield from self._chains("damage", times, kill_and_damage)

    def _chains(self, name: str, times: int, make: Callable[[Case], None]) -> Iterator[dict[str, Any]]:
        expected = self.alone()
        while times > 0:
            wanted, done = min(times, PER_RUN[name]), 0
            case = self.case(name=name)
            try:
                case.start()
                while done < wanted and self.moment(case):
                    make(case)
                    done += 1
                    if done < wanted:
                        case.start()
                case.end()
                if done == 0:
                    raise RuntimeError("the run was over before the first fault; make it longer with --epochs")
                yield {"faults": done, **self.go_on(case, expected)}
            finally:
                case.end()
            times -= done

    def outage(self, times: int) -> Iterator[dict[str, Any]]:
        expected = self.alone()
        modes = ["refuse", "errors", "cut", "stall"]
        with outages.s3_server() as port:
            outages.make_bucket(port, BUCKET)
            for number in range(times):
                proxy = outages.Proxy(port)
                mirror = f"s3://{BUCKET}/{number}"
                client = {k: v for k, v in outages.environment(proxy.url).items() if k.startswith("AWS_")}
                case = self.case(f"checkpoint.mirror={mirror}", name="outage", **client)  # type: ignore[arg-type]  # names of variables, none is a parameter's
                try:
                    yield {
                        "faults": 1,
                        **self._outage(
                            case, proxy, f"{mirror}/run", port, modes[number % 4], number % 2 == 0, expected
                        ),
                    }
                finally:
                    proxy.close()
                    case.end()

    def _outage(
        self, case: Case, proxy: Any, url: str, port: int, mode: str, lost: int, expected: dict[str, Any]
    ) -> dict[str, Any]:
        case.start()
        case.wait(lambda: _copies(port, url) > 0)
        connections, proxy.mode = proxy.connections, mode
        before = case.step()
        went_on = case.wait(lambda: case.step() >= before + self.draw.randint(3, 6))
        # An outage that no upload has met is none. A silent mirror is told of only after the client's own time limit: what counts
        # is that an upload waits for it.
        noticed = case.wait(
            lambda: proxy.connections > connections if mode == "stall" else "the upload is tried again" in case.said()
        )
        proxy.mode = "pass"
        what = None
        if lost:
            self.kill_one(case)
            shutil.rmtree(case.run)
            what = url
        elif case.finish() != 0:
            return {"finished": False, "identical": False, "mode": mode, "said": case.said()[-1500:]}
        end = self.go_on(case, expected, what)
        copied = _copied_weights(port, url)
        end["identical"] = end["identical"] and copied == expected["weights"]
        return {"mode": mode, "machine_lost": bool(lost), "steps_went_on": went_on, "noticed": noticed, **end}

    def disk(self, times: int) -> Iterator[dict[str, Any]]:
        expected = self.alone()
        for _ in range(times):
            case = self.case(name="disk")
            try:
                with small_disk(case.folder / "small") as disk:
                    if disk:
                        (case.folder / "run").symlink_to(disk / "run")
                        (disk / "run").mkdir()
                    case.start()
                    self.moment(case)
                    kind = "tmpfs" if disk else "file size limit"
                    filling = None if disk is None else fill(disk)
                    for rank in () if disk else case.ranks_running():
                        resource.prlimit(rank.pid, resource.RLIMIT_FSIZE, (100_000, 100_000))
                    refused = case.finish() != 0 and "the checkpoint could not be written" in case.said()
                    if filling:
                        filling.unlink()
                    yield {"faults": 1, "kind": kind, "said_so": refused, **self.go_on(case, expected)}
            finally:
                case.end()

    def shard(self, times: int) -> Iterator[dict[str, Any]]:
        shards = self.folder / "shards"
        pack = [sys.executable, "-m", "groundup", "data", "pack", "digits", str(shards), "--shard-mb", "0.05"]
        subprocess.run(pack, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        source = [f"data.source=webdataset:{shards}", "evaluate.batch_size=100"]
        expected = self.alone(source)
        for _ in range(times):
            case = self.case(name="shard", source=source, GROUNDUP_CACHE=str(self.folder / f"cache-{self._number}"))
            try:
                case.start()
                self.moment(case)
                self.kill_one(case)
                shard = self.draw.choice(sorted(shards.rglob("*.tar")))
                content = shard.read_bytes()
                shard.write_bytes(content[: self.draw.randrange(512, len(content) - 512)])
                case.start()
                refused = case.finish() != 0
                named = shard.name in case.said()
                shard.write_bytes(content)
                yield {"faults": 1, "refused": refused, "named": named, **self.go_on(case, expected)}
            finally:
                case.end()

    def row(self, name: str, times: int) -> dict[str, Any]:
        """One line of the table."""
        started = time.monotonic()
        runs = list(getattr(self, name)(times))
        return {
            "fault": name,
            "faults": sum(run["faults"] for run in runs),
            "runs": len(runs),
            "finished": sum(run["finished"] for run in runs),
            "identical": sum(run["identical"] for run in runs),
            "shown": sum(all(run.get(flag, True) for flag in TO_SHOW) for run in runs),
            "seconds": round(time.monotonic() - started, 1),
            "each": runs,
        }


def sound(row: dict[str, Any]) -> bool:
    """Whether every run of a row came to the uninterrupted result and showed what it had to."""
    return bool(row["runs"] == row["finished"] == row["identical"] == row["shown"])


@functools.cache
def _place(port: int, url: str) -> Any:
    from groundup.runs.mirror.places import open_place

    os.environ.update(outages.environment(f"http://127.0.0.1:{port}"))
    return open_place(url)


def _copies(port: int, url: str) -> int:
    from groundup.runs.mirror.files import whole

    time.sleep(0.1)
    return len(whole(_place(port, url).names()))


def _copied_weights(port: int, url: str) -> bytes | None:
    """The weights of the newest checkpoint in the mirror."""
    from groundup.runs.mirror.files import whole

    place = _place(port, url)
    newest = whole(place.names())
    content: bytes | None = place.read(f"checkpoints/{newest[0]}/model.safetensors") if newest else None
    return content


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="+", choices=list(TIMES), default=list(TIMES))
    parser.add_argument("--short", action="store_true", help="each fault once")
    parser.add_argument("--ranks", type=int, default=1, help="processes of every run")
    parser.add_argument("--epochs", type=int, default=8, help="length of a run, of 6 steps each")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        table = Table(Path(folder), random.Random(chosen.seed), chosen.ranks, chosen.epochs)
        kept = json.loads(chosen.out.read_text())["rows"] if chosen.out and chosen.out.exists() else []
        rows = {row["fault"]: row for row in kept}
        for name in chosen.rows:
            rows[name] = {**table.row(name, 1 if chosen.short else TIMES[name]), "commit": environment()["commit"]}
            print(json.dumps({k: v for k, v in rows[name].items() if k != "each"}), flush=True)
            ordered = [rows[fault] for fault in TIMES if fault in rows]
            result = {"ranks": chosen.ranks, "seed": chosen.seed, "environment": environment(), "rows": ordered}
            if chosen.out:
                write_json(chosen.out, result)
    bad = [row["fault"] for row in rows.values() if not sound(row)]
    sys.exit(
        f"not every run came to the uninterrupted result and showed what it had to: {', '.join(bad)}" if bad else 0
    )


if __name__ == "__main__":
    main()
