"""Slow twins: optimizers that torch.optim lacks, as the formulas are printed, one parameter after another."""

from __future__ import annotations

import math

import torch


class Lion(torch.optim.Optimizer):
    """x -= lr (sign(beta1 m + (1 - beta1) g) + wd x), then m = beta2 m + (1 - beta2) g. Chen et al. 2023, arXiv:2302.06675"""

    def __init__(self, params, lr=1e-4, betas=(0.9, 0.99), weight_decay=0.0):
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                g, state = p.grad, self.state[p]
                m = state.get("m", torch.zeros_like(p))
                p *= 1 - group["lr"] * group["weight_decay"]
                p -= group["lr"] * torch.sign(beta1 * m + (1 - beta1) * g)
                state["m"] = beta2 * m + (1 - beta2) * g


class AdaBelief(torch.optim.Optimizer):
    """s = beta2 s + (1 - beta2) (g - m)^2 + eps, else AdamW. Zhuang et al. 2020, arXiv:2010.07468"""

    def __init__(self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-16, weight_decay=0.0):
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            (beta1, beta2), eps = group["betas"], group["eps"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                g, state = p.grad, self.state[p]
                t = state["t"] = state.get("t", 0) + 1
                m = state["m"] = beta1 * state.get("m", torch.zeros_like(p)) + (1 - beta1) * g
                s = state["s"] = beta2 * state.get("s", torch.zeros_like(p)) + (1 - beta2) * (g - m) ** 2 + eps
                m_hat, s_hat = m / (1 - beta1**t), s / (1 - beta2**t)
                p *= 1 - group["lr"] * group["weight_decay"]
                p -= group["lr"] * m_hat / (s_hat.sqrt() + eps)


class Muon(torch.optim.Optimizer):
    """Orthogonalised momentum: torch.optim.Muon for matrices, also for kernels seen as matrices; sign(momentum) for the rest."""

    def __init__(self, params, lr=1e-3, momentum=0.95, weight_decay=0.1):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                if p.dim() < 2:
                    v = self.state[p]["v"] = group["momentum"] * self.state[p].get("v", 0.0) + (1 - group["momentum"]) * p.grad
                    u = (1 - group["momentum"]) * p.grad + group["momentum"] * v
                    p *= 1 - group["lr"] * group["weight_decay"]
                    p -= group["lr"] * u.sign()
                    continue
                matrix = self.state[p].setdefault("matrix", torch.zeros(len(p), p[0].numel(), dtype=p.dtype))
                if "inner" not in self.state[p]:
                    self.state[p]["inner"] = torch.optim.Muon([matrix], **{n: group[n] for n in ("lr", "momentum", "weight_decay")})
                self.state[p]["inner"].param_groups[0].update({n: group[n] for n in ("lr", "momentum", "weight_decay")})
                matrix.copy_(p.reshape(matrix.shape))
                matrix.grad = p.grad.reshape(matrix.shape).clone()
                self.state[p]["inner"].step()
                p.copy_(matrix.view_as(p))


class LARS(torch.optim.Optimizer):
    """v = momentum v + lr (trust |x| / (|g| + wd |x|)) (g + wd x); x -= v. You et al. 2017, arXiv:1708.03888"""

    def __init__(self, params, lr=0.1, momentum=0.9, trust=1e-3, eps=1e-8, weight_decay=0.0):
        super().__init__(params, {"lr": lr, "momentum": momentum, "trust": trust, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            decay = group["weight_decay"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                g, state = p.grad, self.state[p]
                x_norm, g_norm = p.norm().item(), g.norm().item()
                local = 1.0
                if x_norm > 0 and g_norm > 0:
                    local = group["trust"] * x_norm / (g_norm + decay * x_norm + group["eps"])
                v = state.get("v", torch.zeros_like(p))
                v = state["v"] = group["momentum"] * v + group["lr"] * local * (g + decay * p)
                p -= v


class LAMB(torch.optim.Optimizer):
    """r = Adam's m_hat / (sqrt(s_hat) + eps) + wd x; x -= lr (|x| / |r|) r. You et al. 2019, arXiv:1904.00962"""

    def __init__(self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-6, weight_decay=0.0):
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                g, state = p.grad, self.state[p]
                t = state["t"] = state.get("t", 0) + 1
                m = state["m"] = beta1 * state.get("m", torch.zeros_like(p)) + (1 - beta1) * g
                s = state["s"] = beta2 * state.get("s", torch.zeros_like(p)) + (1 - beta2) * g**2
                m_hat, s_hat = m / (1 - beta1**t), s / (1 - beta2**t)
                r = m_hat / (s_hat.sqrt() + group["eps"]) + group["weight_decay"] * p
                x_norm, r_norm = p.norm().item(), r.norm().item()
                ratio = x_norm / r_norm if x_norm > 0 and r_norm > 0 else 1.0
                p -= group["lr"] * ratio * r


class Prodigy(torch.optim.Optimizer):
    """x -= lr d m / (sqrt(v) + d eps), then d = max(d, r / |s|_1). Mishchenko & Defazio 2023, arXiv:2306.06101, Algorithm 4"""

    def __init__(self, params, lr=1.0, betas=(0.9, 0.999), eps=1e-8, d0=1e-6, weight_decay=0.0):
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})
        self.d, self.r = d0, 0.0

    @torch.no_grad()
    def step(self, closure=None):
        d, s_norm = self.d, 0.0
        self.r *= math.sqrt(self.param_groups[0]["betas"][1])
        for group in self.param_groups:
            lr, (beta1, beta2) = group["lr"], group["betas"]
            beta3 = math.sqrt(beta2)
            for p in group["params"]:
                if p.grad is None:
                    continue
                g, state = p.grad, self.state[p]
                start = state.setdefault("start", p.clone())
                state["m"] = beta1 * state.get("m", torch.zeros_like(p)) + (1 - beta1) * d * g
                state["v"] = beta2 * state.get("v", torch.zeros_like(p)) + (1 - beta2) * d**2 * g**2
                self.r += (1 - beta3) * lr * d**2 * (g * (start - p)).sum().item()
                state["s"] = beta3 * state.get("s", torch.zeros_like(p)) + (1 - beta3) * lr * d**2 * g
                s_norm += state["s"].abs().sum().item()
                p *= 1 - lr * d * group["weight_decay"]
                p -= lr * d * state["m"] / (state["v"].sqrt() + d * group["eps"])
        self.d = max(d, self.r / s_norm if s_norm > 0 else 0.0)


def rotate(Q_L, X, Q_R, back=False):
    """Q_L^T X Q_R, or back: Q_L X Q_R^T. None is the identity"""
    if Q_L is not None:
        X = Q_L @ X if back else Q_L.T @ X
    if Q_R is not None:
        X = X @ Q_R.T if back else X @ Q_R
    return X


class SOAP(torch.optim.Optimizer):
    """Adam in the eigenbasis of L = E[G G^T] and R = E[G^T G]. Vyas et al. 2024, arXiv:2409.11321, Algorithm 3"""

    def __init__(
        self, params, lr=3e-3, betas=(0.95, 0.95), shampoo_beta=0.95, eps=1e-8, weight_decay=0.01, frequency=10, largest=10000
    ):  # fmt: skip
        names = {"shampoo_beta": shampoo_beta, "eps": eps, "weight_decay": weight_decay, "frequency": frequency, "largest": largest}
        super().__init__(params, {"lr": lr, "betas": betas, **names})

    def turn(self, state, side, G, dim, first):
        """Move the eigenvectors of the mean G G^T on by one power iteration and QR, in descending order, V's rows or columns with them."""
        Q = state["Q" + side]
        if first:
            state["Q" + side] = torch.linalg.eigh(state[side]).eigenvectors.flip(1)
            return
        order = torch.argsort(torch.diag(Q.T @ state[side] @ Q), descending=True)
        state["Q" + side] = torch.linalg.qr(state[side] @ Q[:, order]).Q
        state["V"] = state["V"][order] if dim == 0 else state["V"][:, order]

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                G, state = p.grad.reshape(p.shape[0], -1) if p.dim() >= 2 else p.grad, self.state[p]
                if not state:
                    state |= {"t": 0, "M": torch.zeros_like(G), "V": torch.zeros_like(G), "QL": None, "QR": None}
                t = state["t"] = state["t"] + 1
                sides = [(s, g, i) for s, g, i in (("L", G, 0), ("R", G.T, 1)) if len(g) <= group["largest"]] if p.dim() >= 2 else []
                p *= 1 - group["lr"] * group["weight_decay"]
                state["M"] = beta1 * state["M"] + (1 - beta1) * G
                if t > 1 or not sides:  # as in the authors' code, the first gradient only finds the basis
                    Q_L, Q_R = state["QL"], state["QR"]
                    state["V"] = beta2 * state["V"] + (1 - beta2) * rotate(Q_L, G, Q_R) ** 2
                    m_hat, v_hat = rotate(Q_L, state["M"], Q_R) / (1 - beta1**t), state["V"] / (1 - beta2**t)
                    N = rotate(Q_L, m_hat / (v_hat.sqrt() + group["eps"]), Q_R, back=True)
                    p -= group["lr"] * N.reshape(p.shape)
                for side, g, dim in sides:
                    state[side] = group["shampoo_beta"] * state.get(side, 0.0) + (1 - group["shampoo_beta"]) * (g @ g.T)
                    if (t - 1) % group["frequency"] == 0:
                        self.turn(state, side, g, dim, t == 1)


class ScheduleFreeSGD(torch.optim.Optimizer):
    """z -= lr (g(y) + wd y); mean = (1 - c) mean + c z; y = (1 - beta) z + beta mean. Defazio et al. 2024, arXiv:2405.15682"""

    def __init__(self, params, lr=1.0, beta=0.9, weight_decay=0.0):
        super().__init__(params, {"lr": lr, "beta": beta, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            lr, beta = group["lr"], group["beta"]
            for y in group["params"]:
                if y.grad is None:
                    continue
                state = self.state[y]
                z, mean = state.get("z", y.clone()), state.get("mean", y.clone())
                z = state["z"] = z - lr * (y.grad + group["weight_decay"] * y)
                total = state["total"] = state.get("total", 0.0) + lr**2
                c = lr**2 / total if total > 0 else 0.0
                mean = state["mean"] = (1 - c) * mean + c * z
                y.copy_((1 - beta) * z + beta * mean)

    @torch.no_grad()
    def answer(self):
        for y, state in self.state.items():
            y.copy_(state["mean"])


class ScheduleFreeAdamW(torch.optim.Optimizer):
    """gamma = lr sqrt(1 - beta2^t); z -= gamma (g(y) / (sqrt(v) + eps) + wd y). Defazio et al. 2024, arXiv:2405.15682, Algorithm 1"""

    def __init__(self, params, lr=2.5e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0):
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for y in group["params"]:
                if y.grad is None:
                    continue
                g, state = y.grad, self.state[y]
                t = state["t"] = state.get("t", 0) + 1
                gamma = group["lr"] * math.sqrt(1 - beta2**t)
                z, mean = state.get("z", y.clone()), state.get("mean", y.clone())
                v = state["v"] = beta2 * state.get("v", torch.zeros_like(y)) + (1 - beta2) * g**2
                z = state["z"] = z - gamma * (g / (v.sqrt() + group["eps"]) + group["weight_decay"] * y)
                total = state["total"] = state.get("total", 0.0) + gamma**2
                c = gamma**2 / total if total > 0 else 0.0
                mean = state["mean"] = (1 - c) * mean + c * z
                y.copy_((1 - beta1) * z + beta1 * mean)

    @torch.no_grad()
    def answer(self):
        for y, state in self.state.items():
            y.copy_(state["mean"])
