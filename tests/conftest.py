"""What several test files share."""

import atexit
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# threads that wait for each other sleep meanwhile: on cores that have other work too, looking all the time would be most of the work
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
if WORKERS > 1:
    # workers share the cores: threads of all of them at once would spend most of the time waiting for each other. Processes that
    # tests start have their own threads, as a user's have
    os.environ.setdefault("OPENBLAS_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // WORKERS)))

# kernels and measured forms of the tests' own: one folder for all of their processes, fresh every time
if "THALWEG_CACHE" not in os.environ:
    os.environ["THALWEG_CACHE"] = tempfile.mkdtemp(prefix="thalweg-tests-")
    atexit.register(shutil.rmtree, os.environ["THALWEG_CACHE"], ignore_errors=True)

# A machine may be slow, or busy with other things. The examples are the same every time, so that a change is judged by itself;
# `pytest --hypothesis-profile exploring` draws others
settings.register_profile("exploring", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("same", settings.get_profile("exploring"), derandomize=True)
settings.load_profile("same")


@pytest.fixture(autouse=True, scope="session")
def brief() -> Iterator[None]:
    """The finalists of a study are timed for a moment only: how long is all the same to what is tested."""
    from thalweg.engine.fleet import trial

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trial, "PACE", 0.0)
        yield


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder with the real data files: $THALWEG_DATA, or `shared/data` beside the repository."""
    folder = Path(os.environ.get("THALWEG_DATA") or Path(__file__).parents[2] / "shared" / "data")
    if not (folder / "mnist").is_dir():
        pytest.skip(f"the data files are not in {folder}; name their folder in THALWEG_DATA")
    return folder


def pytest_configure(config: pytest.Config) -> None:
    if WORKERS > 1:
        import torch

        torch.set_num_threads(max(1, torch.get_num_threads() // WORKERS))
