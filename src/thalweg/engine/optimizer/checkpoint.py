"""Checkpoints of optimizers: parameters are matched by name where both sides have names, and every state keeps its type."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor

from thalweg.errors import UserError

Groups = Sequence[dict[str, Any]]


def matched(groups: Groups, saved: Groups) -> tuple[list[dict[str, Any]], dict[int, Tensor]]:
    """The saved groups in the order of ours, and the parameter that every saved number stands for; raises ValueError where they differ."""
    if len(groups) != len(saved):
        raise UserError(
            f"loaded state dict has a different number of parameter groups: it has {len(saved)}, the optimizer has {len(groups)}; "
            "make the optimizer with the groups that were saved"
        )
    ours, theirs = _names(groups), _names(saved)
    if ours is None or theirs is None or not set(ours) & set(theirs):
        return _by_place(groups, saved)
    if set(ours) != set(theirs):
        gone, new = sorted(set(theirs) - set(ours)), sorted(set(ours) - set(theirs))
        raise UserError(
            f"loaded state dict names other parameters: {_some(gone, 'only there')}{_some(new, 'only here')}rename them in the state dict "
            "(register_load_state_dict_pre_hook), or leave the names out to match parameters by their place"
        )
    homes = {name: i for i, group in enumerate(saved) for name in group["param_names"]}
    order = [homes[group["param_names"][0]] if group["params"] else i for i, group in enumerate(groups)]
    for i, group in zip(order, groups, strict=True):
        if set(saved[i]["param_names"]) != set(group["param_names"]):
            raise UserError(
                "loaded state dict contains a parameter group that doesn't match the size of optimizer's group or holds other parameters: "
                f"{', '.join(sorted(set(saved[i]['param_names']) ^ set(group['param_names']))[:4])}; make the groups that were saved"
            )
    places = {theirs[name]: p for name, p in ours.items()}
    return [saved[i] for i in order], places


def _names(groups: Groups) -> dict[str, Any] | None:
    """name -> parameter, or its number; None where names are lacking."""
    if not all("param_names" in group for group in groups):
        return None
    return {name: p for group in groups for name, p in zip(group["param_names"], group["params"], strict=True)}


def _by_place(groups: Groups, saved: Groups) -> tuple[list[dict[str, Any]], dict[int, Tensor]]:
    for i, (group, other) in enumerate(zip(groups, saved, strict=True)):
        if len(group["params"]) != len(other["params"]):
            raise UserError(
                "loaded state dict contains a parameter group that doesn't match the size of optimizer's group: "
                f"group {i} has {len(other['params'])} parameters there and {len(group['params'])} here"
            )
    pairs = [pair for g, s in zip(groups, saved, strict=True) for pair in zip(s["params"], g["params"], strict=True)]
    return list(saved), dict(pairs)


def _some(names: Sequence[str], where: str) -> str:
    return f"{', '.join(names[:4])}{' and more' if len(names) > 4 else ''} {where}; " if names else ""


def states(saved: Mapping[Any, Any], places: Mapping[int, Tensor], scalars: Iterable[str], alike: bool) -> dict[Any, Any]:
    """The saved states by parameter: copies, in their own types, on the parameter's device but for those of one number.

    scalars: names of states of one number. alike: whether all others have the parameter's shape; raises ValueError where one does not.
    """
    alone = {"step", "parts", *scalars}
    found: dict[Any, Any] = defaultdict(dict)
    for key, state in saved.items():
        if key not in places:
            found[key] = deepcopy(state)
            continue
        p = places[key]
        for name, value in state.items() if isinstance(state, Mapping) else ():
            if isinstance(value, Tensor):
                value = value.detach().clone(memory_format=torch.preserve_format)
                value = value if name in alone else value.to(p.device)
                if alike and name not in alone and value.shape != p.shape:
                    raise UserError(
                        f"loaded state dict has '{name}' of shape {tuple(value.shape)} for a parameter of shape {tuple(p.shape)}: "
                        "parameters are in another order; give names (model.named_parameters()) when saving and loading"
                    )
                found[p][name] = value
            else:
                found[p][name] = deepcopy(value)
    return found
