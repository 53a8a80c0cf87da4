"""What several test files share."""

import os
import tempfile
from pathlib import Path

import pytest

WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
if WORKERS > 1:
    # workers share the cores: threads of all of them at once would spend most of the time waiting for each other. Processes that
    # tests start have their own threads, as a user's have
    os.environ.setdefault("OPENBLAS_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // WORKERS)))

# kernels and measured forms of the tests' own: one folder for all of their processes, fresh every time
os.environ.setdefault("THALWEG_CACHE", tempfile.mkdtemp(prefix="thalweg-tests-"))


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
