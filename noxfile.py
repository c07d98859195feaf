"""The compatibility matrix and the long checks, each one command (results: docs/internals/reliability.md).

  nox                      every cell of the matrix
  nox -s newest-3.13       one cell
  nox -s coverage          line and branch coverage
  nox -s kills fuzz mutation

The cell ``dassl`` needs a checkout of Dassl.pytorch: its path in QPROMPT_DASSL.
"""

import os

import nox

nox.options.default_venv_backend = "uv|virtualenv"
nox.options.sessions = ["newest", "oldest", "extras", "dassl"]
nox.options.stop_on_first_error = False
PYTEST = ("pytest", "pytest-timeout", "pytest-xdist", "hypothesis", "mypy", "import-linter")


def run_tests(session: nox.Session, *under: str, **env: str) -> None:
    arguments = session.posargs or ["-n", str(len(os.sched_getaffinity(0)))]
    session.run("python", "-m", *under, "pytest", *arguments, env={"OMP_NUM_THREADS": "1", **env})


@nox.session(python=["3.10", "3.11", "3.12", "3.13"])
def newest(session: nox.Session) -> None:
    """Newest torch and numpy, no extras."""
    session.install("-e", ".", *PYTEST)
    run_tests(session)


@nox.session(python="3.10")
def oldest(session: nox.Session) -> None:
    """Oldest supported torch and numpy, no extras."""
    session.install("-e", ".", "torch==2.4.*", "torchvision==0.19.*", "numpy==1.26.*", *PYTEST)
    run_tests(session)


@nox.session(python="3.13")
def extras(session: nox.Session) -> None:
    """All extras: matplotlib, onnx, open_clip, submitit."""
    session.install("-e", ".[plot,onnx,openclip,slurm]", *PYTEST)
    run_tests(session)


@nox.session(python="3.11")
def dassl(session: nox.Session) -> None:
    """Real Dassl instead of the bundled engine."""
    checkout = os.environ.get("QPROMPT_DASSL")
    if not checkout:
        session.skip("QPROMPT_DASSL is not set to a checkout of Dassl.pytorch")
    session.install("-e", ".", "torch==2.5.1", "torchvision==0.20.1", "numpy==1.26.*", *PYTEST)
    session.install("-r", f"{checkout}/requirements.txt")
    session.install("--no-build-isolation", "setuptools", checkout)
    run_tests(session, QPROMPT_ENGINE="dassl", QPROMPT_DASSL=checkout)


@nox.session(python="3.11")
def coverage(session: nox.Session) -> None:
    """Line and branch coverage by the default test suite, of what pyproject.toml names."""
    session.install("-e", ".[plot]", "coverage", *PYTEST)
    session.run("coverage", "erase")
    run_tests(session, "coverage", "run", "-m")
    session.run("coverage", "combine", "--quiet")
    session.run("coverage", "report")


@nox.session(python="3.11")
def kills(session: nox.Session) -> None:
    """Runs that are killed at random moments; as root also full disks."""
    session.install("-e", ".", *PYTEST)
    session.run("python", "tools/kill_runs.py", *session.posargs)


@nox.session(python="3.11")
def fuzz(session: nox.Session) -> None:
    """100,000 damaged files per reader."""
    session.install("-e", ".", *PYTEST)
    session.run("python", "tools/fuzz_readers.py", *session.posargs)


@nox.session(python="3.11")
def mutation(session: nox.Session) -> None:
    """Small faults in K-Means, fake quantization and prompt files, each of which a test should notice."""
    session.install("-e", ".", *PYTEST)
    session.run("python", "tools/mutate_code.py", *session.posargs)
