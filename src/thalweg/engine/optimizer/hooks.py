"""Hooks and the profiler around an optimizer's step, as torch.optim has them."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from torch.autograd import _profiler_enabled
from torch.optim import optimizer as everywhere


def watched(step: Callable[..., Any]) -> Callable[..., Any]:
    """A step that torch's profiler and hooks see, where there are any: asking for them costs a small model a tenth of its step."""
    hooked = everywhere.Optimizer.profile_hook_step(step)

    @wraps(step)
    def either(self: Any, *args: Any, **keywords: Any) -> Any:
        own = self._optimizer_step_pre_hooks or self._optimizer_step_post_hooks
        asked = own or everywhere._global_optimizer_pre_hooks or everywhere._global_optimizer_post_hooks or _profiler_enabled()
        return (hooked if asked else step)(self, *args, **keywords)

    either.hooked = True  # type: ignore[attr-defined]  # else torch would put its own around it
    return either
