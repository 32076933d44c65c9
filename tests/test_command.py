"""What runs before the command: the process starts anew where huge pages are given to those who ask."""

import os
import subprocess
import sys

import pytest

import pmljax_command
from pmljax_command import asking

ASKED = "glibc.malloc.hugetlb=1"


@pytest.fixture
def system(tmp_path, monkeypatch):
    """A Linux that gives huge pages to those who ask; call it to have it otherwise."""

    def become(library="glibc 2.36", pages="always [madvise] never"):
        def confstr(name):
            if not isinstance(library, str):
                raise library
            return library

        monkeypatch.setattr(os, "confstr", confstr)
        (tmp_path / "enabled").write_text(f"{pages}\n")
        monkeypatch.setattr(pmljax_command, "PAGES", tmp_path / "enabled")

    become()
    return become


def test_who_asks(system, monkeypatch):
    assert asking({"A": "b"}) == {"A": "b", "GLIBC_TUNABLES": ASKED}
    other = "glibc.malloc.tcache_count=0"
    assert asking({"GLIBC_TUNABLES": other}) == {"GLIBC_TUNABLES": f"{other}:{ASKED}"}
    system("glibc 3.0")
    assert asking({}) == {"GLIBC_TUNABLES": ASKED}
    for said in (ASKED, "glibc.malloc.hugetlb=0", f"{other}:glibc.malloc.hugetlb=2"):
        assert asking({"GLIBC_TUNABLES": said}) is None  # so a process starts anew once
    for pages in ("[always] madvise never", "always madvise [never]"):
        system(pages=pages)
        assert asking({}) is None
    for library in ("glibc 2.34", "musl 1.2", "", ValueError("unrecognized name"), OSError()):
        system(library)
        assert asking({}) is None
    system()
    pmljax_command.PAGES.unlink()
    assert asking({}) is None
    monkeypatch.delattr(os, "confstr")  # Windows
    assert asking({}) is None


def test_where_it_cannot_start_anew_it_goes_on(system, monkeypatch):
    from pmljax import cli

    tried = []

    def none(*given):
        tried.append(given)
        raise OSError("not here")

    monkeypatch.setattr(os, "execve", none)
    monkeypatch.setattr(cli, "main", lambda: 7)
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    assert pmljax_command.main() == 7
    [(path, argv, environment)] = tried
    assert path == argv[0] == sys.executable and environment == {**os.environ, "GLIBC_TUNABLES": ASKED}
    monkeypatch.setattr(sys, "executable", "")
    assert pmljax_command.main() == 7 and len(tried) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere no process starts anew")
@pytest.mark.parametrize("taken_away", [False, True])
def test_the_same_process_and_arguments_once(taken_away, tmp_path):
    """Once also where the setting does not arrive, as the loader takes it from a Python that has capabilities."""
    (tmp_path / "enabled").write_text("always [madvise] never\n")
    code = (
        "import os, pathlib, sys, pmljax_command as command\n"
        f"command.PAGES = pathlib.Path({str(tmp_path / 'enabled')!r})\n"
        "command.os.confstr = lambda name: 'glibc 2.36'\n"
        f"if {taken_away}: os.environ.pop('GLIBC_TUNABLES', None)\n"
        "print(os.getpid(), sys.argv[1:], os.environ.get('GLIBC_TUNABLES'), flush=True)\n"
        "sys.exit(command.main())"
    )
    given = ["score", "--davis", "no ü", "--results", ""]
    environment = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    done = subprocess.run(
        [sys.executable, "-X", "utf8", "-c", code, *given], capture_output=True, text=True, env=environment, timeout=60
    )
    first, second = done.stdout.splitlines()
    assert first.endswith(f" {given} None") and second == (first if taken_away else first.replace("None", ASKED))
    assert done.returncode == 2 and "no ü" in done.stderr and done.stderr.count("\n") == 1
