"""Students: what is to be trained on the device, from a line of text or from the user's own file."""

import importlib.util
import inspect
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from insitu.models.convolutional import CONVOLUTIONAL, seeded
from insitu.models.errors import StudentError, one_line

_SIZES = re.compile(r"[0-9]+(-[0-9]+)+")


def mlp(sizes: Sequence[int], seed: int) -> nn.Sequential:
    """Flatten, then Linear layers of the given sizes with ReLU between them and none after the last.

    Args:
        sizes: inputs, hidden sizes, outputs; at least two, each at least 1.
        seed: of torch's default initialisation; torch's global generator is left as it was.

    Raises:
        StudentError: fewer than two sizes, or one below 1.
    """
    if len(sizes) < 2 or min(sizes) < 1:
        raise StudentError(f"mlp sizes {list(sizes)}; expected at least two, each at least 1")
    layers: list[nn.Module] = [nn.Flatten()]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for inputs, outputs in zip(sizes, sizes[1:], strict=False):
            layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def build(spec: str, *, in_shape: tuple[int, ...], classes: int, seed: int) -> nn.Module:
    """The student a specification names, checked to map float32 [b, *in_shape] to [b, classes].

    Args:
        spec: `mlp:784-100-50-10`, a name of models/convolutional.py, with options where it has any
            (`mobilenet-v1:width=0.5,blocks=2`), or `path/to/file.py:factory`. The factory is called with `in_shape`
            and `classes` where its signature takes them, else with nothing; the file's own
            folder is importable from within.
        in_shape: the shape of one image.
        seed: of the initial weights; torch's global generator is left as it was.

    Raises:
        StudentError: a specification of another form, sizes that do not fit the data, no such file or factory, a
            factory that raises or returns something else than a module, or a module of another shape.
    """
    kind, _, rest = spec.partition(":")
    if kind == "mlp":
        return _build_mlp(spec, in_shape, classes, seed)
    if kind in CONVOLUTIONAL:
        return seeded(kind, in_shape, classes, seed, **_options(spec, rest))
    file, colon, factory = spec.rpartition(":")
    if not colon or not file.endswith(".py") or not factory.isidentifier():
        named = ", ".join(CONVOLUTIONAL)
        raise StudentError(f"student {spec!r}; write mlp:SIZE-...-SIZE, {named} or path/to/file.py:factory")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = _call(spec, _factory(spec, Path(file).expanduser(), factory), in_shape, classes)
        _check_shapes(spec, module, in_shape, classes)
    return module


def anchored(spec: str, folder: str | Path) -> str:
    """The same specification, a file's path, where it has one, beginning in `folder`."""
    file, colon, factory = spec.rpartition(":")
    return f"{Path(folder) / Path(file).expanduser()}:{factory}" if colon and file.endswith(".py") else spec


def _options(spec: str, text: str) -> dict[str, float]:
    """ "width=0.5,blocks=2" as numbers, whole ones as int."""
    found: dict[str, float] = {}
    for item in filter(None, text.split(",")):
        key, _, value = item.partition("=")
        try:
            found[key] = int(value) if value.isdecimal() else float(value)
        except ValueError as error:
            raise StudentError(f"student {spec!r}: option {item!r}; write name=number") from error
    return found


def mlp_sizes(spec: str) -> list[int]:
    """Inputs, hidden sizes and outputs of a specification `mlp:784-100-50-10`; none of any other."""
    kind, _, rest = spec.partition(":")
    return [int(size) for size in rest.split("-")] if kind == "mlp" and _SIZES.fullmatch(rest) else []


def _build_mlp(spec: str, in_shape: tuple[int, ...], classes: int, seed: int) -> nn.Sequential:
    sizes = mlp_sizes(spec)
    if not sizes:
        raise StudentError(f"student {spec!r}; write the sizes joined by '-', e.g. mlp:784-100-50-10")
    inputs = torch.Size(in_shape).numel()
    if sizes[0] != inputs:
        shape = " x ".join(map(str, in_shape))
        raise StudentError(f"student {spec!r} takes {sizes[0]} inputs; images of {shape} have {inputs}")
    if sizes[-1] != classes:
        raise StudentError(f"student {spec!r} has {sizes[-1]} outputs; the data has {classes} classes")
    return mlp(sizes, seed)


def _factory(spec: str, path: Path, name: str) -> Callable[..., Any]:
    """Run the user's file and take the factory from it."""
    if not path.is_file():
        raise StudentError(f"student {spec!r}: no file {path}")
    # A name of its own, so that the file neither shadows an installed module nor is taken for one.
    module_name = f"insitu_student_{path.resolve().stem}"
    found = importlib.util.spec_from_file_location(module_name, path.resolve())
    if found is None or found.loader is None:
        raise StudentError(f"student {spec!r}: {path} cannot be imported")
    module = importlib.util.module_from_spec(found)
    # Dataclasses and pickling look modules up by name.
    sys.modules[module_name] = module
    sys.path.insert(0, str(path.resolve().parent))
    try:
        found.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[module_name]
        raise StudentError(f"student {spec!r}: importing {path} raised {one_line(error)}") from error
    finally:
        sys.path.remove(str(path.resolve().parent))
    factory = getattr(module, name, None)
    if not callable(factory):
        offered = [key for key, value in vars(module).items() if callable(value) and value.__module__ == module_name]
        raise StudentError(f"student {spec!r}: no function {name!r} in {path}; it has {', '.join(offered) or 'none'}")
    return factory


def _call(spec: str, factory: Callable[..., Any], in_shape: tuple[int, ...], classes: int) -> nn.Module:
    parameters = inspect.signature(factory).parameters.values()
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters)
    named = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    offered = {"in_shape": in_shape, "classes": classes}
    try:
        module = factory(**{key: value for key, value in offered.items() if takes_all or key in named})
    except (Exception, SystemExit) as error:
        raise StudentError(f"student {spec!r}: the factory raised {one_line(error)}") from error
    if not isinstance(module, nn.Module):
        raise StudentError(
            f"student {spec!r}: the factory returned {type(module).__name__}; expected a torch.nn.Module"
        )
    return module


def _check_shapes(spec: str, module: nn.Module, in_shape: tuple[int, ...], classes: int) -> None:
    """Two images through it: better a line now than a failure in the middle of compiling."""
    was_training = module.training
    module.eval()
    try:
        with torch.inference_mode():
            answer = module(torch.zeros(2, *in_shape))
    except Exception as error:
        raise StudentError(f"student {spec!r}: forward of 2 x {list(in_shape)} raised {one_line(error)}") from error
    finally:
        module.train(was_training)
    shape = list(answer.shape) if isinstance(answer, torch.Tensor) else type(answer).__name__
    if shape != [2, classes]:
        raise StudentError(f"student {spec!r}: forward of 2 x {list(in_shape)} gives {shape}; expected [2, {classes}]")
