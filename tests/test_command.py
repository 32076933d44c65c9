"""What runs before the command: the process starts anew where huge pages are given to those who ask."""

import os
import subprocess
import sys

import pytest

import pmljax_command
from pmljax_command import asking

ASKED = "glibc.malloc.hugetlb=1"
OTHER = "glibc.malloc.tcache_count=0"


@pytest.fixture
def system(tmp_path, monkeypatch):
    """A Linux that gives huge pages to those who ask; call it to have it otherwise."""

    def become(library="glibc 2.36", pages="always [madvise] never"):
        def confstr(name):
            if isinstance(library, Exception):
                raise library
            return library

        monkeypatch.setattr(os, "confstr", confstr)
        (tmp_path / "enabled").write_text(f"{pages}\n")
        monkeypatch.setattr(pmljax_command, "PAGES", tmp_path / "enabled")

    become()
    return become


def test_who_asks(system, monkeypatch):
    assert asking({"A": "b"}) == {"A": "b", "GLIBC_TUNABLES": ASKED}
    assert asking({"GLIBC_TUNABLES": OTHER}) == {"GLIBC_TUNABLES": f"{OTHER}:{ASKED}"}
    system("glibc 3.0")
    assert asking({}) == {"GLIBC_TUNABLES": ASKED}
    for said in (ASKED, "glibc.malloc.hugetlb=0", f"{OTHER}:glibc.malloc.hugetlb=2"):
        assert asking({"GLIBC_TUNABLES": said}) is None
    for pages in ("[always] madvise never", "always madvise [never]"):
        system(pages=pages)
        assert asking({}) is None
    for library in ("glibc 2.34", "musl 1.2", "", None, ValueError("unrecognized name"), OSError()):
        system(library)
        assert asking({}) is None
    system()
    pmljax_command.PAGES.unlink()
    assert asking({}) is None
    monkeypatch.delattr(os, "confstr")  # Windows
    assert asking({}) is None


def test_what_can_be_begun_again_and_what_goes_on(system, tmp_path, monkeypatch):
    from pmljax import cli

    tried = []

    def none(*given):
        tried.append(given)
        raise OSError("not here")

    monkeypatch.setattr(os, "execve", none)
    monkeypatch.setattr(cli, "main", lambda: 7)
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    script = str(tmp_path / "pmljax")

    def run(argv, *before):
        monkeypatch.setattr(sys, "argv", argv)
        monkeypatch.setattr(sys, "orig_argv", ["python", *before, *argv])
        assert pmljax_command.main() == 7
        return [argv for _, argv, _ in tried]

    assert not run([script, "info"])  # it is not there
    (tmp_path / "pmljax").touch()
    expected = [sys.executable, "-X", "pmljax-anew", "-I", script, "info"]
    assert run([script, "info"], "-I") == [expected] and tried[0][0] == sys.executable
    assert tried[0][2] == {**os.environ, "GLIBC_TUNABLES": ASKED}
    for argv, before in (([script], ["-m", "pdb"]), (["-", "info"], []), (["/dev/null"], []), ([""], [])):
        assert len(run(argv, *before)) == 1
    monkeypatch.setattr(sys, "executable", "")
    assert len(run([script])) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere no process starts anew")
@pytest.mark.parametrize("given", [None, OTHER, "taken away"])
def test_the_same_process_and_arguments_once(given, tmp_path):
    """Once also where the setting does not arrive, as the loader takes it from a Python that has capabilities."""
    (tmp_path / "enabled").write_text("always [madvise] never\n")
    (tmp_path / "pmljax").write_text(f"""
import os, pathlib, sys
import pmljax_command as command
command.PAGES = pathlib.Path({str(tmp_path / "enabled")!r})
command.os.confstr = lambda name: "glibc 2.36"
if {given == "taken away"}:
    os.environ.pop("GLIBC_TUNABLES", None)
def told():
    name = pathlib.Path("/proc/self/comm").read_text().strip()
    print(os.getpid(), sys.argv[1:], os.environ.get("GLIBC_TUNABLES"), name, flush=True)
told()
status = command.main()
told()
sys.exit(status)
""")
    environment = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    environment |= {"GLIBC_TUNABLES": given} if given == OTHER else {}
    given = given if given == OTHER else None
    options = ["score", "--davis", "no ü", "--results", ""]
    done = subprocess.run(
        [sys.executable, "-X", "utf8", tmp_path / "pmljax", *options],
        capture_output=True,
        text=True,
        env=environment,
        timeout=60,
    )
    first, second, third = (line.rsplit(maxsplit=2) for line in done.stdout.splitlines())
    assert first[0] == second[0] == third[0] and first[0].endswith(str(options))
    assert first[1] == third[1] == str(given) and third[2] == "pmljax"
    assert second[1] in (f"{OTHER}:{ASKED}" if given else ASKED, "None")
    assert done.returncode == 2 and "no ü" in done.stderr and done.stderr.count("\n") == 1
