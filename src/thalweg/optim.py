"""Optimizers as drop-ins for torch.optim: its classes, arguments, groups and states, and the rules that torch lacks.

    from thalweg import optim

    optimizer = optim.AdamW(model.named_parameters(), lr=3e-4, weight_decay=0.1, no_decay=("*.bias", "*norm*"), clip_norm=1.0)

A class is a rule under torch's names. Besides torch's arguments every class takes `maximize`, the keywords of `Optimizer` (`engine`,
`state_dtype`, `accumulate`, `no_decay`, `seed`), the rule's other hyperparameters by name, and those of wrappers and regularizers, each of
which puts that wrapper around the rule: `clip_norm`, `clip_value`, `ema`, `lookahead`, `sam`, `l1`, `l2`, `elastic_net`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from thalweg.core import catalogue
from thalweg.core.rule import Rule
from thalweg.engine.optimizer.lbfgs import LBFGS
from thalweg.engine.optimizer.naming import FLAGS, Group, Naming, plain
from thalweg.engine.optimizer.optimizer import Optimizer
from thalweg.engine.optimizer.route import Routed, route
from thalweg.errors import UserError

RULES: Mapping[str, Rule] = catalogue.shelf("optimizers")
WRAPPERS = tuple({**catalogue.shelf("wrappers"), **catalogue.shelf("regularizers")}.values())


def optimizer(rule: Rule, title: str | None = None) -> type[Optimizer]:
    """An optimizer class from a rule, with the rule's own names for arguments and states.

    >>> import torch
    >>> import thalweg as tw
    >>> from thalweg.core import Rate
    >>> @tw.rule
    ... def signsgd(x, g, *, lr: Rate = 1e-3):
    ...     '''Step along the sign. Bernstein et al. 2018.'''
    ...     return x - lr * g.sign()
    >>> SignSGD = tw.optimizer(signsgd)
    >>> model = torch.nn.Linear(2, 1)
    >>> SignSGD(model.parameters(), lr=0.1).param_groups[0]["lr"]
    0.1
    """
    if not isinstance(rule, Rule):
        raise UserError(f"tw.optimizer takes a rule, a function declared with @tw.rule, not {type(rule).__name__}")
    return _class(plain(rule, title or rule.name, WRAPPERS))


def _class(naming: Naming) -> type[Optimizer]:
    return type(naming.title, (Optimizer,), {"naming": naming, "__doc__": _doc(naming), "__module__": __name__})


def _doc(naming: Naming) -> str:
    shown = ", ".join(f"{n}={v!r}" for n, v in naming.defaults.items() if n not in FLAGS)
    return f"{naming.rule.doc}\n\n{naming.title}(params, {shown}, maximize=False, ...)"


def _torch(title: str, rule: Rule, arguments: str, states: Mapping[str, str], **more: Any) -> type[Optimizer]:
    """A class under torch's names. arguments: in torch's order, `betas=beta1,beta2` where names differ or several make a tuple."""
    named: dict[str, str | tuple[str, ...]] = {}
    for part in arguments.split():
        name, _, hypers = part.partition("=")
        several = tuple(hypers.split(",")) if "," in hypers else hypers or name
        named[name] = several
    return _class(Naming(title, rule, named, states, wrappers=WRAPPERS, **more))


def _no_lists_of_tensors(group: Group) -> None:
    for name, value in (("lr", group["lr"]), *((f"betas[{i}]", b) for i, b in enumerate(group["betas"]))):
        if isinstance(value, Tensor) and group["foreach"] and not group["capturable"]:
            raise ValueError(f"{name} as a Tensor is not supported for capturable=False and foreach=True")


def _nesterov(group: Group) -> None:
    if group["nesterov"] and (float(group["momentum"]) <= 0 or float(group["dampening"]) != 0):
        raise ValueError("Nesterov momentum requires a momentum and zero dampening")


MOMENTS = {"m": "exp_avg", "s": "exp_avg_sq"}
ADAM: Mapping[str, Any] = {"check": _no_lists_of_tensors, "decoupled": True}

SGD = _torch("SGD", RULES["sgd"], "lr momentum dampening weight_decay nesterov", {"v": "momentum_buffer"}, check=_nesterov, sparse=True)
Adagrad = _torch(
    "Adagrad", RULES["adagrad"], "lr lr_decay weight_decay initial_accumulator_value=initial eps", {"s": "sum"},
    more=("foreach",), eager=True,
)  # fmt: skip
RMSprop = _torch(
    "RMSprop", RULES["rmsprop"], "lr alpha=gamma eps weight_decay momentum centered",
    {"s": "square_avg", "a": "grad_avg", "v": "momentum_buffer"},
    more=("capturable", "foreach", "maximize", "differentiable"),
)  # fmt: skip
Adadelta = _torch("Adadelta", RULES["adadelta"], "lr rho eps weight_decay", {"s": "square_avg", "d": "acc_delta"}, more=("foreach",))
Adam = _torch("Adam", RULES["adam"], "lr betas=beta1,beta2 eps weight_decay amsgrad", {**MOMENTS, "top": "max_exp_avg_sq"}, **ADAM)
AdamW = _torch("AdamW", RULES["adamw"], "lr betas=beta1,beta2 eps weight_decay amsgrad", {**MOMENTS, "top": "max_exp_avg_sq"}, **ADAM)
Adamax = _torch("Adamax", RULES["adamax"], "lr betas=beta1,beta2 eps weight_decay", {"m": "exp_avg", "u": "exp_inf"}, more=("foreach",))
NAdam = _torch(
    "NAdam", RULES["nadam"], "lr betas=beta1,beta2 eps weight_decay momentum_decay", {**MOMENTS, "product": "mu_product"},
    decoupled=True, more=("decoupled_weight_decay",),
)  # fmt: skip
RAdam = _torch("RAdam", RULES["radam"], "lr betas=beta1,beta2 eps weight_decay", MOMENTS, decoupled=True, more=("decoupled_weight_decay",))
Rprop = _torch(
    "Rprop", RULES["rprop"], "lr etas=eta_minus,eta_plus step_sizes=smallest,largest", {"before": "prev", "size": "step_size"},
    says={"etas": "Invalid eta values: {}"},
)  # fmt: skip
ASGD = _torch(
    "ASGD", RULES["asgd"], "lr lambd alpha t0 weight_decay", {"mean": "ax"}, more=("foreach", "maximize", "differentiable", "capturable")
)
Adafactor = _torch(
    "Adafactor", RULES["adafactor"], "lr beta2_decay eps=eps1,eps2 d weight_decay", {"r": "row_var", "c": "col_var", "v": "variance"},
    says={"eps": "epsilon1 should be >= 0 and epsilon2 too: {}", "d": "Clipping threshold d should be >= 1: {}",
          "beta2_decay": "beta2_decay should be <= 0: {}"}, shown={"eps": (None, 1e-3)},
)  # fmt: skip
Muon = _torch(
    "Muon", RULES["muon"], "lr weight_decay momentum nesterov ns_coefficients=ns_a,ns_b,ns_c eps ns_steps adjust_lr_fn=adjust",
    {"v": "momentum_buffer"}, says={"adjust_lr_fn": "Adjust learning rate function {} is not supported"}, matrices=True,
    shown={"adjust_lr_fn": None},
)  # fmt: skip

Yogi = _torch("Yogi", RULES["yogi"], "lr betas=beta1,beta2 eps weight_decay", MOMENTS)
Lion = _torch("Lion", RULES["lion"], "lr betas=beta1,beta2 weight_decay", {"m": "exp_avg"})
AdaBelief = _torch("AdaBelief", RULES["adabelief"], "lr betas=beta1,beta2 eps weight_decay", {"m": "exp_avg", "s": "exp_avg_var"})
LARS = _torch("LARS", RULES["lars"], "lr momentum trust eps weight_decay", {"v": "momentum_buffer"})
LAMB = _torch("LAMB", RULES["lamb"], "lr betas=beta1,beta2 eps weight_decay", MOMENTS)
Prodigy = _torch("Prodigy", RULES["prodigy"], "lr betas=beta1,beta2 eps d0 weight_decay", {"m": "exp_avg", "v": "exp_avg_sq"})
SOAP = _torch("SOAP", RULES["soap"], "lr betas=beta1,beta2 shampoo_beta eps weight_decay frequency", {"m": "exp_avg", "v": "exp_avg_sq"})
ScheduleFreeSGD = _torch("ScheduleFreeSGD", RULES["schedule_free_sgd"], "lr beta weight_decay", {})
ScheduleFreeAdamW = _torch(
    "ScheduleFreeAdamW", RULES["schedule_free_adamw"], "lr betas=beta1,beta2 eps weight_decay", {"s": "exp_avg_sq"}
)  # fmt: skip
RandomSearch = _torch("RandomSearch", RULES["random_search"], "scale", {})

__all__ = [
    "ASGD", "LAMB", "LARS", "LBFGS", "SGD", "SOAP", "AdaBelief", "Adadelta", "Adafactor", "Adagrad", "Adam", "AdamW", "Adamax", "Lion",
    "Muon", "NAdam", "Optimizer", "Prodigy", "RAdam", "RMSprop", "RandomSearch", "Routed", "Rprop", "ScheduleFreeAdamW", "ScheduleFreeSGD",
    "Yogi", "optimizer", "route",
]  # fmt: skip
