"""Our optimizers inside what people train with, DistributedDataParallel, accelerate and Lightning, beside torch's own."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from held import until
from thalweg import optim

DISTRIBUTED = """
import sys, torch, torch.distributed as dist
from torch import nn
from thalweg import optim

rank, place, out = int(sys.argv[1]), sys.argv[2], sys.argv[3]
dist.init_process_group("gloo", init_method=f"file://{place}", rank=rank, world_size=2)
ends = []
for library in (optim, torch.optim):
    torch.manual_seed(0)
    model = nn.parallel.DistributedDataParallel(nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 2)))
    optimizer = library.AdamW(model.parameters(), lr=0.01)
    for t in range(10):
        x = torch.randn(8, 5, generator=torch.Generator().manual_seed(10 * t + rank))
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
    ends.append(torch.cat([p.detach().reshape(-1) for p in model.parameters()]))
torch.save(ends, out)
dist.destroy_process_group()
"""


def test_two_processes_under_distributed_data_parallel(tmp_path: Path):
    script = tmp_path / "run.py"
    script.write_text(textwrap.dedent(DISTRIBUTED))
    command = [sys.executable, str(script)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    places = [[str(rank), str(tmp_path / "meet"), str(tmp_path / f"{rank}.pt")] for rank in range(2)]
    runs = [subprocess.Popen([*command, *place], env=environment, stderr=subprocess.PIPE) for place in places]
    try:
        assert until(lambda: all(run.poll() is not None for run in runs)), "the processes hang"
    finally:
        for run in runs:
            run.kill()
            _, said = run.communicate()
            assert run.returncode == 0, said.decode()[-2000:]
    (ours, theirs), (others, _) = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert torch.equal(ours, others)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)


def batches(count: int = 6) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(5)
    return [(torch.randn(4, 5, generator=generator), torch.randn(4, 1, generator=generator)) for _ in range(count)]


def loader() -> DataLoader:
    xs, ys = zip(*batches(), strict=True)
    return DataLoader(TensorDataset(torch.cat(xs), torch.cat(ys)), batch_size=4)


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 1))


def numbers(module: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().reshape(-1) for p in module.parameters()])


@pytest.mark.filterwarnings("ignore")
def test_accelerate(tmp_path: Path):
    accelerate = pytest.importorskip("accelerate", reason="accelerate is an optional extra: pip install 'thalweg[trainers]'")
    ends = []
    for library in (optim, torch.optim):
        accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=2)
        net = model()
        optimizer = library.AdamW(net.parameters(), lr=0.01)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5)
        net, optimizer, scheduler = accelerator.prepare(net, optimizer, scheduler)
        for x, y in batches():
            with accelerator.accumulate(net):
                accelerator.backward((net(x) - y).square().mean())
                accelerator.clip_grad_norm_(net.parameters(), 0.5)
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()
        accelerator.save_state(str(tmp_path / library.__name__))
        accelerator.load_state(str(tmp_path / library.__name__))
        ends.append(numbers(net))
        accelerator.free_memory()
    torch.testing.assert_close(ends[0], ends[1], rtol=1e-5, atol=1e-7)


@pytest.mark.filterwarnings("ignore")
def test_lightning(tmp_path: Path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        lightning = pytest.importorskip("pytorch_lightning", reason="Lightning is an optional extra: pip install 'thalweg[trainers]'")
    ends = []
    for library in (optim, torch.optim):

        class Module(lightning.LightningModule):
            def __init__(self, library=library):
                super().__init__()
                self.net, self.library = model(), library

            def training_step(self, batch, index):
                x, y = batch
                return (self.net(x) - y).square().mean()

            def configure_optimizers(self):
                optimizer = self.library.AdamW(self.parameters(), lr=0.01)
                return {"optimizer": optimizer, "lr_scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)}

        quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
        trainer = lightning.Trainer(max_epochs=2, accelerator="cpu", gradient_clip_val=0.5, default_root_dir=str(tmp_path), **quiet)
        module = Module()
        trainer.fit(module, loader())
        trainer.save_checkpoint(tmp_path / "end.ckpt")
        again = lightning.Trainer(max_epochs=3, accelerator="cpu", default_root_dir=str(tmp_path), **quiet)
        again.fit(module, loader(), ckpt_path=str(tmp_path / "end.ckpt"))
        ends.append(numbers(module))
    torch.testing.assert_close(ends[0], ends[1], rtol=1e-5, atol=1e-7)
