"""Read and replace tensors in a forward pass: everything that looks into or changes a model is a use of this.

A `Site` names a tensor; a `Patch` maps it to its replacement, or to `None` when it only looks.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from torch import Tensor, nn

Patch = Callable[[Tensor], Tensor | None]


@dataclass(frozen=True)
class Site:
    """A tensor in the forward pass: the first input, or the output, of one module."""

    module: str
    side: Literal["in", "out"] = "out"


class Tape(dict[Site, Tensor]):
    """What stood at each site in the last forward pass.

    >>> import torch
    >>> model, tape = nn.Sequential(nn.Identity()), Tape()
    >>> with hooked(model, tape.read(Site("0"))):
    ...     _ = model(torch.ones(2))
    >>> tape[Site("0")]
    tensor([1., 1.])
    """

    def read(self, site: Site) -> tuple[Site, Patch]:
        """Return the pair that keeps the tensor at `site` and leaves it as it is."""
        return site, partial(self.__setitem__, site)


@contextmanager
def hooked(model: nn.Module, *pairs: tuple[Site, Patch], outermost: bool = False) -> Iterator[None]:
    """Apply patches, in the order given, to every forward pass within the block.

    All names are resolved before the first hook is set, and all hooks are gone after the block, whatever happens.

    Args:
        model: whose modules are named.
        pairs: sites and patches.
        outermost: change inputs before the patches that are already set see them, as outputs are changed after them.

    Raises:
        LookupError: the model has no module of that name.
        TypeError: within the block, when an `in` site's module is called by keyword only.

    >>> import torch
    >>> model = nn.Sequential(nn.Identity())
    >>> with hooked(model, (Site("0"), lambda h: 2 * h)):
    ...     model(torch.ones(1))
    tensor([2.])
    """
    modules = [find_module(model, site.module) for site, _ in pairs]
    with ExitStack() as stack:
        for module, (site, patch) in zip(modules, pairs, strict=True):
            if site.side == "in":
                handle = module.register_forward_pre_hook(partial(_patch_input, patch), prepend=outermost)
            else:
                handle = module.register_forward_hook(partial(_patch_output, patch))
            stack.callback(handle.remove)
        yield


def only(module: str, tokens: Tensor) -> list[tuple[Site, Patch]]:
    """Let a module that works on each token alone see some tokens of a line only; its output is zero at the others.

    To be set `outermost`, so that other patches of the module see these tokens on both sides.

    Args:
        module: its name; input and output are (1, tokens of the line, ...).
        tokens: places in the line.
    """
    lengths: list[int] = []

    def select(states: Tensor) -> Tensor:
        lengths.append(states.shape[1])
        return states.index_select(1, tokens)

    def put_back(output: Tensor) -> Tensor:
        return output.new_zeros(1, lengths.pop(), output.shape[2]).index_copy_(1, tokens, output)

    return [(Site(module, "in"), select), (Site(module), put_back)]


@contextmanager
def shadowed(module: nn.Module, name: str, value: Any) -> Iterator[None]:
    """Give a module an attribute of its own within the block, in front of its class's or of another of its own.

    >>> module = nn.Identity()
    >>> with shadowed(module, "forward", lambda states: -states):
    ...     module(2)
    -2
    >>> "forward" in vars(module)
    False
    """
    own = vars(module)
    before = own.get(name, own)
    own[name] = value
    try:
        yield
    finally:
        if before is own:
            del own[name]
        else:
            own[name] = before


def find_module(model: nn.Module, name: str) -> nn.Module:
    """Return the module of that dotted name, or raise `LookupError`."""
    try:
        return model.get_submodule(name)
    except AttributeError as error:
        raise LookupError(f"{type(model).__name__} has no module named {name!r}") from error


def first(output: Any) -> Tensor:
    """Return the hidden states from what a module gave: some families' blocks and attentions give tuples."""
    hidden = output[0] if isinstance(output, tuple) else output
    if not isinstance(hidden, Tensor):
        raise TypeError(f"expected a tensor, or a tuple that starts with one, got {type(output).__name__}")
    return hidden


def _patch_input(patch: Patch, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
    if not args:
        raise TypeError(f"{type(module).__name__} is called by keyword, so its input is no site; use its output")
    new = patch(args[0])
    return None if new is None else (new, *args[1:])


def _patch_output(patch: Patch, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:  # noqa: ARG001
    new = patch(first(output))
    if new is None:
        return None
    return (new, *output[1:]) if isinstance(output, tuple) else new
