"""One run of a model of one's own, on batches that a DataLoader makes: waves with fresh noise in every epoch.

    thalweg train examples/own_loader.py:problem -o adamw --lr 0.003 --schedule cosine --warmup 20 --early-stopping 3
    python examples/own_loader.py

Interrupted and started again, either goes on where it was.
"""

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

import thalweg as tw


class Waves(Dataset):
    """Sines, squares and sawtooths of 64 samples: (1, 64) signals and their kind. Pitch, phase and noise are drawn anew at each access."""

    def __init__(self, rows: int) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        pitch, phase = 2 + 4 * torch.rand(()), torch.rand(())
        turns = torch.linspace(0, 1, 64) * pitch + phase
        sine = (2 * torch.pi * turns).sin()
        kinds = sine, sine.sign(), 2 * turns.frac() - 1
        return (kinds[i % 3] + 0.8 * torch.randn(64))[None], i % 3


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv1d(1, 16, 7, stride=2, padding=3), nn.Conv1d(16, 32, 5, stride=2, padding=2)
        self.out = nn.Linear(32, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.second(self.first(x).relu()).relu()
        return self.out(nn.functional.dropout(x.amax(2), 0.1, self.training))


def fixed(rows: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows that stay the same, for validation and test."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        signals, kinds = zip(*(Waves(rows)[i] for i in range(rows)), strict=True)
    return torch.stack(signals), torch.tensor(kinds)


problem = tw.Problem(
    model=Net, loss=nn.functional.cross_entropy, train=DataLoader(Waves(1500), batch_size=32, shuffle=True, num_workers=2),
    valid=fixed(300, seed=1), test=fixed(300, seed=2), metrics="accuracy", epochs=10, name="waves",
)  # fmt: skip

if __name__ == "__main__":
    run = tw.train(problem, "adamw", lr=3e-3, schedule="cosine", warmup=20, early_stopping=3, out="outputs/waves")
    print(run.status, run.test, run.report())
