"""A device bundle: one file for one kind of board, the same bytes each time, every file of it accounted for."""

from __future__ import annotations

import hashlib
import io
import json
import lzma
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from command_line import run_command

from fleet.device_bundle.archive import read_bundle, unpack_bundle
from fleet.device_bundle.boards import Arch, Board
from fleet.device_bundle.making import make_bundle
from fleet.plant.agent_requirements import RequirementsError
from runtime.errors import SettingsError

AMD64 = Board(arch=Arch.AMD64, python="3.11")
ARM64 = Board(arch=Arch.ARM64, python="3.13")


@pytest.fixture(scope="module")
def unpacked(listed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    make_bundle(listed, AMD64, folder / "agent.tar.xz")
    (folder / "tree").mkdir()
    unpack_bundle(read_bundle(folder / "agent.tar.xz"), folder / "tree")
    return folder / "tree"


def files_of(tree: Path) -> set[str]:
    return {
        path.relative_to(tree).as_posix()
        for path in tree.rglob("*")
        if not path.is_dir() or path.is_symlink()
    }


def test_the_command_makes_a_bundle_and_says_what_is_in_it(listed: Path, tmp_path: Path) -> None:
    words = (
        "--arch",
        "arm64",
        "--python",
        "3.13",
        "--out",
        str(tmp_path / "a.tar.xz"),
        "--requirements",
        str(listed),
    )
    made = run_command("fleet", "bundle", *words)
    assert made.returncode == 0, made.stderr
    assert "the agent for arm64 with Python 3.13, 2 packages" in made.stdout
    assert hashlib.sha256((tmp_path / "a.tar.xz").read_bytes()).hexdigest() in made.stdout
    bundle = read_bundle(tmp_path / "a.tar.xz")
    assert (bundle.board, bundle.version) == (ARM64, "1.0")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ("--arch", "armv7", "--python", "3.11"),
            "--arch 'armv7' is none that an agent runs on: arm64 or amd64",
        ),
        (
            ("--arch", "arm64", "--python", "3.10"),
            "--python '3.10' is none that an agent runs on: 3.11, 3.12, 3.13",
        ),
        (("--arch", "arm64", "--python", "3.11", "--requirements", "nowhere.txt"), "cannot read nowhere.txt"),
    ],
)
def test_a_wrong_word_is_one_line(tmp_path: Path, words: tuple[str, ...], said: str) -> None:
    done = run_command("fleet", "bundle", *words, "--out", str(tmp_path / "a.tar.xz"))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert said in done.stderr
    assert not list(tmp_path.iterdir())


def test_the_same_list_gives_the_same_bytes(listed: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        make_bundle(listed, ARM64, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    with tarfile.open(tmp_path / "a") as archive:
        assert {(e.uid, e.gid, e.mtime, e.uname) for e in archive} == {(0, 0, 0, "")}


def test_each_board_gets_its_own_wheels_and_the_list_decides_by_its_python(
    listed: Path, tmp_path: Path
) -> None:
    for board, part, has_old in ((AMD64, b"x86_64", True), (ARM64, b"aarch64", False)):
        make_bundle(listed, board, tmp_path / "a")
        with tarfile.open(tmp_path / "a") as archive:
            found = archive.extractfile(f"{board.site}/board_part.py")
            assert found is not None
            assert part in found.read()
            assert (f"{board.site}/only_old.py" in archive.getnames()) is has_old


def test_what_no_device_runs_is_left_out(unpacked: Path) -> None:
    found = files_of(unpacked)
    assert f"{AMD64.site}/beside.py" in found, "of purelib"
    names = (".pyi", "test_part.py", "fleet/app.py", "export/graph.py", "scripts/part", "RECORD")
    assert not [path for path in found if path.endswith(names)]


def test_the_bill_of_materials_names_each_file_once_with_its_hash_and_origin(unpacked: Path) -> None:
    bill = json.loads((unpacked / "sbom.cdx.json").read_text())
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    packages = {part["name"]: part for part in bill["components"]}
    listed = [file for part in bill["components"] for file in part["components"]]
    assert sorted(file["name"] for file in listed) == sorted(files_of(unpacked) - {"sbom.cdx.json"})
    for file in listed:
        place = unpacked / file["name"]
        if place.is_symlink():
            assert file["properties"] == [{"name": "fedge:link", "value": str(place.readlink())}]
        else:
            assert file["hashes"] == [
                {"alg": "SHA-256", "content": hashlib.sha256(place.read_bytes()).hexdigest()}
            ]
    part = packages["board-part"]
    assert part["purl"] == "pkg:pypi/board-part@1.0"
    assert part["licenses"] == [{"expression": "MIT"}]
    assert part["properties"] == [
        {"name": "fedge:wheel", "value": "board_part-1.0-py3-none-manylinux_2_28_x86_64.whl"}
    ]
    assert f"{AMD64.site}/board_part.py" in {file["name"] for file in part["components"]}


def test_the_licences_are_listed_with_where_their_texts_lie(unpacked: Path) -> None:
    page = (unpacked / "LICENCES.txt").read_text()
    assert "board-part 1.0: MIT\n" in page
    texts = [line.strip() for line in page.splitlines() if line.startswith("    ")]
    assert len(texts) == 3
    assert all((unpacked / text).read_text() == "do as you like\n" for text in texts)


def test_unpacked_anywhere_it_runs_with_the_devices_python_and_sees_nothing_else(
    unpacked: Path, tmp_path: Path
) -> None:
    (unpacked / "bin" / "python").unlink()  # this machine's Python need not lie in /usr/bin
    (unpacked / "bin" / "python").symlink_to(sys.executable)
    (tmp_path / "board_part.py").write_text("WHERE = 'the folder that somebody stands in'\n")
    command = [str(unpacked / "bin" / "fedge-agent"), "join", "it"]
    done = subprocess.run(
        command, cwd=tmp_path, env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True, check=False
    )
    assert done.stdout == "agent x86_64 join it\n", done.stderr
    script = "import sys; print([p for p in sys.path if 'packages' in p])"
    seen = subprocess.run(
        [str(unpacked / "bin" / "python"), "-c", script], capture_output=True, text=True, check=True
    )
    assert seen.stdout.strip() == str([str(unpacked / AMD64.site)])


def test_a_file_that_is_not_the_locked_one_is_refused(listed: Path, tmp_path: Path) -> None:
    changed = tmp_path / "agent-requirements.txt"
    text = listed.read_text().splitlines()
    text[1] = text[1][:-64] + "0" * 64
    changed.write_text("\n".join(text))
    (tmp_path / "fedge-1.0-py3-none-any.whl").write_bytes(
        (listed.parent / "fedge-1.0-py3-none-any.whl").read_bytes()
    )
    with pytest.raises(RequirementsError, match="not the one that was locked") as told:
        make_bundle(changed, AMD64, tmp_path / "a")
    assert "\n" not in str(told.value)
    assert not (tmp_path / "a").exists()


def test_a_package_without_a_wheel_for_the_board_is_named(listed: Path, tmp_path: Path) -> None:
    changed = listed.parent / "other.txt"
    changed.write_text(listed.read_text() + f"nowhere==2.0 --hash=sha256:{'0' * 64}\n")
    with pytest.raises(
        RequirementsError, match=r"nowhere==2\.0 has no wheel for arm64 with Python 3\.13, or the package"
    ):
        make_bundle(changed, ARM64, tmp_path / "a")


def test_a_line_without_a_hash_is_refused(listed: Path, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("numpy==2.0\n")
    with pytest.raises(
        SettingsError, match=r"'numpy==2\.0' has no hash; make the list with `fedge device requirements`"
    ):
        make_bundle(tmp_path / "list.txt", AMD64, tmp_path / "a")


def test_a_bundle_that_grew_too_large_is_not_written(listed: Path, tmp_path: Path) -> None:
    with pytest.raises(RequirementsError, match=r"is 0\.0 MB; at most 0 MB are carried"):
        make_bundle(listed, AMD64, tmp_path / "a", most_bytes=1000)
    assert not (tmp_path / "a").exists()


def test_what_is_no_bundle_is_refused_in_one_line(listed: Path, tmp_path: Path) -> None:
    path = tmp_path / "a"
    make_bundle(listed, AMD64, path)
    whole = path.read_bytes()
    bundle = read_bundle(path)
    for content in (b"", b"no archive", whole[:60], lzma.compress(b"no tar")):
        path.write_bytes(content)
        with pytest.raises(SettingsError, match="is no device bundle: `fedge-fleet bundle` makes one"):
            read_bundle(path)
    path.write_bytes(whole[:-100])
    (tmp_path / "tree").mkdir()
    with pytest.raises(SettingsError, match=r"is damaged .*: copy it again"):
        unpack_bundle(bundle, tmp_path / "tree")


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd"])
def test_a_path_that_leads_out_of_the_folder_is_never_written(
    listed: Path, tmp_path: Path, name: str
) -> None:
    path = tmp_path / "a"
    make_bundle(listed, AMD64, path)
    bundle = read_bundle(path)
    with tarfile.open(path, "w:xz") as archive:
        entry = tarfile.TarInfo(name)
        entry.size = 1
        archive.addfile(entry, io.BytesIO(b"x"))
    (tmp_path / "tree").mkdir()
    with pytest.raises(SettingsError, match="which no bundle of ours does"):
        unpack_bundle(bundle, tmp_path / "tree")
    assert not list((tmp_path / "tree").iterdir())


@pytest.mark.parametrize("written", ["bin/out/authorized_keys", "bin/out"])
def test_a_link_in_a_bundle_leads_nothing_else_out_of_the_folder(
    listed: Path, tmp_path: Path, written: str
) -> None:
    path, outside = tmp_path / "a", tmp_path / "outside"
    make_bundle(listed, AMD64, path)
    bundle = read_bundle(path)
    if written != "bin/out":
        outside.mkdir()
    with tarfile.open(path, "w:xz") as archive:
        link = tarfile.TarInfo("bin/out")
        link.type, link.linkname = tarfile.SYMTYPE, str(outside)
        archive.addfile(link)
        entry = tarfile.TarInfo(written)
        entry.size = 1
        archive.addfile(entry, io.BytesIO(b"x"))
    (tmp_path / "tree").mkdir()
    with pytest.raises(SettingsError, match="which no bundle of ours does"):
        unpack_bundle(bundle, tmp_path / "tree")
    assert not outside.is_file()
    assert not (outside.is_dir() and list(outside.iterdir()))


def test_where_a_link_leads_is_no_command_for_another_program(listed: Path, tmp_path: Path) -> None:
    path = tmp_path / "a"
    make_bundle(listed, AMD64, path)
    bundle = read_bundle(path)
    with tarfile.open(path, "w:xz") as archive:
        link = tarfile.TarInfo("bin/python")
        link.type, link.linkname = tarfile.SYMTYPE, 'x"\ndump /etc/hostname /tmp/stolen\n"'
        archive.addfile(link)
    (tmp_path / "tree").mkdir()
    with pytest.raises(SettingsError, match="which no bundle of ours does"):
        unpack_bundle(bundle, tmp_path / "tree")
