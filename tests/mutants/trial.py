"""One trial: a forked child imports the mutated module in place of the real one and runs the tests that could notice.

The parent has imported every foreign library once and none of our modules: a child pays for our code and the chosen tests alone.
A child has a budget of processor time and not of the clock, so that a busy machine kills no mutant; ended is
also one that only sleeps. Processes that a test starts see the real code, and end with the child's own process group.
"""

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import os
import pickle
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import hypothesis
import pytest
from reach import PRODUCT, Reach, Recorder

ASLEEP_S = 40
"""So long no test of ours sleeps."""

OPTIONS = (
    "-q",
    "-x",
    "-o",
    "addopts=",
    "-p",
    "no:cacheprovider",
    "-p",
    "no:xdist",
    "--tb=line",
    "--no-header",
    "-W",
    "ignore",
)


class MutantFinder(importlib.abc.MetaPathFinder, importlib.machinery.SourceFileLoader):
    """Serves one module from text, as if its file held it."""

    def __init__(self, path: str, source: str) -> None:
        name = ".".join(Path(path).with_suffix("").parts).removesuffix(".__init__")
        super().__init__(name, str(Path(path).resolve()))
        self._source = source

    def find_spec(self, fullname: str, path: object, target: ModuleType | None = None) -> Any:
        """The spec of the mutated module alone."""
        if fullname != self.name:
            return None
        return importlib.util.spec_from_file_location(fullname, self.path, loader=self)

    def get_code(self, fullname: str) -> Any:
        """The mutant's code, never a cached one."""
        return compile(self._source, self.path, "exec", dont_inherit=True)


class Chosen:
    """A pytest plugin that keeps the chosen tests only, in their order, and remembers whether a file did not even import."""

    def __init__(self, tests: list[str]) -> None:
        self._rank = {test: rank for rank, test in enumerate(tests)}
        self.broken = False

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Drop and sort."""
        items[:] = sorted(
            (item for item in items if item.nodeid in self._rank), key=lambda item: self._rank[item.nodeid]
        )

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Note a test file that fails at import."""
        self.broken = self.broken or report.failed


def preload(modules: Iterable[str]) -> None:
    """Import foreign modules once, for all children."""
    for name in modules:
        if name.split(".")[0] not in (*PRODUCT, "tests", "__main__"):
            try:
                importlib.import_module(name)
            except Exception:  # noqa: BLE001, S112 - what a test imported under conditions of its own is imported there again
                continue


def record(tests: list[Path], log: Path) -> tuple[dict[str, Reach], set[str], list[str]]:
    """Run whole test files without a mutant; return what each test reached, the failing ones, and the foreign modules.

    Raises:
        SystemExit: they cannot even be collected; `log` has pytest's words.
    """
    root = Path.cwd()

    def run() -> tuple[dict[str, Reach], set[str], list[str]]:
        recorder = Recorder(root)
        recorder.start()
        # A database server started for each mutant would cost more than all the rest; the same tests run on SQLite.
        options = [*(option for option in OPTIONS if option != "-x"), "-k", "not postgresql"]
        code = pytest.main([*options, *map(str, tests)], plugins=[recorder])
        if code not in {pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED}:
            msg = f"pytest cannot run these tests without a mutant either (exit code {code})"
            raise RuntimeError(msg)
        helpers = {file.stem for file in root.glob("tests/**/*.py")}
        return (
            recorder.reached(),
            recorder.failed,
            [name for name in sys.modules if name.split(".")[0] not in helpers],
        )

    with tempfile.TemporaryFile() as answer:
        child = _fork(lambda: _answer(run, answer), log)
        _, status = os.waitpid(child, 0)
        _end_group(child)
        if status:
            sys.exit(f"the tests cannot be run without a mutant either; see the end of {log}")
        answer.seek(0)
        return pickle.load(answer)  # noqa: S301 - written by our own child a moment ago


def _answer(run: Callable[[], object], answer: Any) -> int:
    pickle.dump(run(), answer)
    answer.flush()
    return 0


class Trial:
    """A running child that tries one mutant."""

    def __init__(
        self, path: str, source: str, tests: list[str], *, tests_s: float, output: Path | str = os.devnull
    ) -> None:
        processor_s = 5 + 3 * tests_s  # as measured under coverage, which is slower
        self._looked_at, self._asleep = time.monotonic(), 0
        self.pid = _fork(lambda: _try(path, source, tests, processor_s), output)

    def wait(self) -> str:
        """The outcome, once it is there."""
        while (outcome := self.outcome()) is None:
            time.sleep(0.05)
        return outcome

    def outcome(self) -> str | None:
        """None while it runs; "killed", "survived" or "timeout" (which is killed too) once it has ended.

        Raises:
            RuntimeError: The child found none of its tests: a mistake of this tool.
        """
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        if pid == 0:
            if not self._waits_for_ever():
                return None
            self.end()
            return "timeout"
        _end_group(self.pid)
        code = os.waitstatus_to_exitcode(status)
        if code < 0:
            return "timeout" if -code in (signal.SIGXCPU, signal.SIGKILL) else "killed"
        # A usage error names tests that are not there: under this mutant their file, or a parameter of theirs, is another. The same
        # tests were there without it (`run._check_that_no_mutant_survives`).
        if code == pytest.ExitCode.NO_TESTS_COLLECTED:
            msg = f"child {self.pid} ran none of its tests (pytest's exit code {code})"
            raise RuntimeError(msg)
        return "survived" if code == 0 else "killed"

    def _waits_for_ever(self) -> bool:
        """Whether nothing of the child has wanted a processor in many looks, a second apart; one that is kept waiting wants one."""
        if time.monotonic() - self._looked_at < 1:
            return False
        self._looked_at = time.monotonic()
        self._asleep = 0 if _wants_a_processor(self.pid) else self._asleep + 1
        return self._asleep >= ASLEEP_S

    def end(self) -> None:
        """End a child that still runs, and all that it started."""
        with suppress(ProcessLookupError, ChildProcessError):  # it may have ended by itself this moment
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        _end_group(self.pid)


def _wants_a_processor(session: int) -> bool:
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
            tasks = stat.parent.glob("task/*/stat") if int(fields[3]) == session else ()
            if any(task.read_text().rpartition(")")[2].split()[0] in "RD" for task in tasks):
                return True
        except (FileNotFoundError, ProcessLookupError):  # it ended while we looked
            continue
    return False


def _try(path: str, source: str, tests: list[str], processor_s: float) -> int:
    used = resource.getrusage(resource.RUSAGE_SELF)
    limit = int(used.ru_utime + used.ru_stime + processor_s) + 1
    # The soft limit alone: a child of ours that sets limits of its own could not raise a hard one.
    resource.setrlimit(resource.RLIMIT_CPU, (limit, resource.getrlimit(resource.RLIMIT_CPU)[1]))
    sys.meta_path.insert(0, MutantFinder(path, source))
    quick = (hypothesis.Phase.explicit, hypothesis.Phase.generate)  # nobody reads a mutant's shrunk example
    hypothesis.settings.register_profile(
        "mutants", phases=quick, database=None, deadline=None, derandomize=True
    )
    hypothesis.settings.load_profile("mutants")
    chosen = Chosen(tests)
    code = pytest.main([*OPTIONS, *dict.fromkeys(test.split("::")[0] for test in tests)], plugins=[chosen])
    return int(pytest.ExitCode.TESTS_FAILED) if chosen.broken else int(code)


def _fork(run: Callable[[], int], output: Path | str) -> int:
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    code = int(pytest.ExitCode.INTERNAL_ERROR)
    try:
        os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for stream in (1, 2):
            os.dup2(os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
        with tempfile.TemporaryDirectory(prefix="fedge-mutant-") as place:
            tempfile.tempdir = place
            code = run()
    except BaseException:  # noqa: BLE001 - a forked child must not return into its parent's code
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # threads and exit handlers of what was tested must not keep the child


def _end_group(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
