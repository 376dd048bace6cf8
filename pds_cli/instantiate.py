"""Objects from config: only components of a config group, each where its kind belongs.

A config may come from somebody else, so it names no functions and no classes at will: a `_target_`
is a class that a shipped YAML of the group names, an optimiser of `torch.optim`, or a class of a
module that the user allowed which implements the group's contract.
"""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from pds_cli.errors import UserError
from pds_cli.options.catalogue import shipped_targets

# Kind → the classes that a component extends, or the methods that it has.
CONTRACTS: dict[str, tuple[str, ...]] = {
    "scene": ("pds_cli.scenes.base.Scene",),
    "representation": ("pds_cli.representations.base.Representation",),
    "backbone": ("pds_cli.backbones.base.Backbone",),
    "loss": ("pds_cli.losses.base.Loss", "pds_cli.training.dataset_update.DatasetUpdateObjective"),
    "editor": ("pds_cli.editors.base.Editor",),
    "optimizer": ("torch.optim.Optimizer",),
    "logger": ("log()", "image()", "close()"),
    "benchmark": ("run()",),
}
_OPTIMISERS = "torch.optim"
_NAME = re.compile(r"[A-Za-z_]\w*")
_BACKSLASHES = re.compile(r"(\\*)\$\{")


def instantiate(
    kind: str | Sequence[str],
    node: Any,
    *args: Any,
    allow_modules: Sequence[str] | None = None,
    **kwargs: Any,
) -> Any:
    """Builds the component that `node._target_` names.

    Args:
        kind: the group it must be of, a key of `CONTRACTS`; or several, of which it is one.
        node: a config node or a dict; its other keys are keyword arguments, and arrive as plain
            Python containers. In nodes of allowed modules, nested nodes with a `_target_` are built
            first (`_recursive_: false` leaves them as they are); ours have none.
        args, kwargs: passed to the class untouched, over the node's own keywords.
        allow_modules: modules that the user trusts; by default the `allow_modules` key at the top
            of the config that `node` belongs to.

    Raises:
        UserError: the target is not allowed or not there, or does not take these keywords.
    """
    if node is None:
        return None
    if allow_modules is None:
        allow_modules = _configured_modules(node)
    plain = _plain(node)
    target, options = checked_node(kind, plain, allow_modules)
    if plain.get("_recursive_", True):
        options = {key: _built(value, allow_modules) for key, value in options.items()}
    given = {**options, **kwargs}
    _check_keywords(plain["_target_"], target, args, given)
    return target(*args, **given)


def checked_node(
    kind: str | Sequence[str], plain: Any, allow_modules: Sequence[str]
) -> tuple[type, dict[str, Any]]:
    """The class that a plain node names and its keywords, with all that the node nests checked.

    Raises:
        UserError: the target is not allowed or not there, or a key is not for us.
    """
    if not isinstance(plain, dict) or "_target_" not in plain:
        raise UserError("this part of the config has no _target_: it names nothing to build.")
    for key in plain:
        if re.fullmatch("_[a-z]+_", str(key)) and key not in ("_target_", "_recursive_"):
            raise UserError(f"{key} in the node of {plain['_target_']} is not taken: leave it out.")
    found = check_target(kind, plain["_target_"], allow_modules)
    options = {k: v for k, v in plain.items() if k not in ("_target_", "_recursive_")}
    if not plain.get("_recursive_", True):
        return found, options
    for target in _targets(options):
        if not within(found.__module__, allow_modules):
            raise UserError(
                f"_target_: {target} is refused inside {plain['_target_']}: only a class of your "
                "own, of a module in allow_modules, may be given built objects."
            )
        _check_nested(target, allow_modules)
    return found, options


def check_target(kind: str | Sequence[str], target: Any, allow_modules: Sequence[str] = ()) -> type:
    """The class that `target` names, if it is a component of the kind that may be built.

    Raises:
        UserError: with the reason, and how to allow it.
    """
    kinds = [kind] if isinstance(kind, str) else list(kind)
    parts = _parts(target)
    if any(target in shipped_targets(each) for each in kinds):
        found = _locate(target, parts)
        assert inspect.isclass(found), target
        return found
    optimiser = "optimizer" in kinds and within(target, [_OPTIMISERS])
    if not optimiser and not within(target, allow_modules):
        raise _refusal(kinds, target)
    allowed = [*allow_modules, *([_OPTIMISERS] if optimiser else [])]
    return _contracted(kinds, target, _allowed_class(target, parts, allowed))


def _parts(target: Any) -> list[str]:
    parts = target.split(".") if isinstance(target, str) else []
    if len(parts) < 2 or not all(_NAME.fullmatch(part) for part in parts):
        raise UserError(f"_target_: {target} is not a dotted path such as package.module.Class.")
    if any(part.startswith("__") for part in parts):
        raise UserError(f"_target_: {target} is refused: names with double underscores are closed.")
    return parts


def _check_nested(target: Any, allow_modules: Sequence[str]) -> type:
    """A class inside a user's node: of an allowed module, or a component of any kind."""
    parts = _parts(target)
    if any(target in shipped_targets(kind) for kind in CONTRACTS):
        found = _locate(target, parts)
        assert inspect.isclass(found), target
        return found
    if not within(target, allow_modules):
        raise _refusal(list(CONTRACTS), target)
    return _allowed_class(target, parts, allow_modules)


def _allowed_class(target: str, parts: list[str], allowed: Sequence[str]) -> type:
    """A class that is defined where `target` says, not only reached through there."""
    found = _locate(target, parts)
    if not inspect.isclass(found):
        raise UserError(f"_target_: {target} is not a class: only classes are built from config.")
    if not within(found.__module__, allowed):
        raise UserError(
            f"_target_: {target} is refused (it lives in {found.__module__}): name it there, and "
            f"allow a module that you trust with allow_modules=[{found.__module__}]."
        )
    return found


def _contracted(kinds: Sequence[str], target: str, found: type) -> type:
    if inspect.isabstract(found):
        raise UserError(f"_target_: {target} is not a whole class: it leaves methods to others.")
    for kind in kinds:
        wanted = CONTRACTS[kind]
        methods = [name[:-2] for name in wanted if name.endswith("()")]
        if methods and all(callable(getattr(found, name, None)) for name in methods):
            return found
        bases = [] if methods else [_locate(path, path.split(".")) for path in wanted]
        if any(issubclass(found, base) for base in bases):
            return found
    contract = " or ".join(dict.fromkeys(_contract(kind) for kind in kinds))
    raise UserError(f"_target_: {target} is no {' or '.join(kinds)}: {contract}.")


def _contract(kind: str) -> str:
    wanted = CONTRACTS[kind]
    verb = "has" if wanted[0].endswith("()") else "extends"
    return f"a {kind} {verb} {(', ' if verb == 'has' else ' or ').join(wanted)}"


def _refusal(kinds: Sequence[str], target: str) -> UserError:
    what = " or ".join(kinds) if len(kinds) < len(CONTRACTS) else "component"
    other = [kind for kind in CONTRACTS if target in shipped_targets(kind)]
    if other:
        return UserError(f"_target_: {target} is refused: it is a {other[0]}, not a {what}.")
    if within(target, ["pds_cli", "torch"]):
        return UserError(
            f"_target_: {target} is refused: it is no {what} of pds; pds list {kinds[0]} shows "
            "what there is."
        )
    return UserError(
        f"_target_: {target} is refused: it is no {what} of pds; if it is yours or you trust it, "
        f"allow its module with allow_modules=[{target.rpartition('.')[0]}]."
    )


def _built(value: Any, allow_modules: Sequence[str]) -> Any:
    """Nested nodes with a `_target_`, built; `checked_node` has looked at them."""
    if isinstance(value, dict):
        inner = {key: _built(each, allow_modules) for key, each in value.items()}
        if "_target_" not in inner:
            return inner
        return _check_nested(inner.pop("_target_"), allow_modules)(**inner)
    return [_built(each, allow_modules) for each in value] if isinstance(value, list) else value


def within(path: str, prefixes: Sequence[str]) -> bool:
    """Whether a prefix matches at a dot."""
    return any(path == prefix or path.startswith(f"{prefix}.") for prefix in prefixes)


def _locate(target: str, parts: list[str]) -> Any:
    """Imports as few modules as it takes."""
    found: Any = None
    for end in range(1, len(parts) + 1):
        name = ".".join(parts[:end])
        if end > 1 and hasattr(found, parts[end - 1]):
            found = getattr(found, parts[end - 1])
            continue
        try:
            if end > 1 and not inspect.ismodule(found):
                raise ModuleNotFoundError(name=name)
            found = import_module(name)
        except ModuleNotFoundError as error:
            if error.name is not None and not target.startswith(error.name):
                raise UserError(
                    f"_target_: {target} needs the module {error.name}, which is not installed."
                ) from error
            raise UserError(
                f"_target_: {target} is not there: {_unknown(found, parts, end)}."
            ) from error
    return found


def _unknown(found: Any, parts: list[str], end: int) -> str:
    parent, name = ".".join(parts[: end - 1]), parts[end - 1]
    if found is None:
        return f"no module {name}"
    known = [key for key in dir(found) if not key.startswith("_")]
    near = difflib.get_close_matches(name, known, 1)
    return f"{parent} has no {name}" + (f"; did you mean {near[0]}" if near else "")


def _configured_modules(node: Any) -> list[str]:
    if not isinstance(node, DictConfig | ListConfig):
        return []
    root = node._get_root()
    modules = OmegaConf.select(root, "allow_modules") if isinstance(root, DictConfig) else None
    return [str(module) for module in modules or []]


def _plain(node: Any) -> Any:
    if isinstance(node, DictConfig | ListConfig):
        return OmegaConf.to_container(node, resolve=True, throw_on_missing=True)
    return node


def _targets(node: Any) -> Iterator[Any]:
    if isinstance(node, dict):
        if "_target_" in node:
            yield node["_target_"]
        for value in node.values():
            yield from _targets(value)
    elif isinstance(node, list | tuple):
        for value in node:
            yield from _targets(value)


def resolve_config(cfg: DictConfig) -> DictConfig:
    """A copy of `cfg` with its interpolations filled in, in which texts with `${` stay texts.

    `OmegaConf.resolve` would leave a prompt's `${` bare, to be read as an interpolation next time.
    """
    return literal_config(_plain(cfg))


def literal_config(plain: Any) -> DictConfig:
    """A config of a plain dict whose texts mean themselves, `${` and all."""
    config = OmegaConf.create(_escape(plain), flags={"struct": True})
    assert isinstance(config, DictConfig)
    return config


def _escape(node: Any) -> Any:
    """Protects the texts in plain containers from being resolved."""
    if isinstance(node, dict):
        return {key: _escape(value) for key, value in node.items()}
    if isinstance(node, list | tuple):
        return [_escape(value) for value in node]
    if isinstance(node, str):
        return escape_text(node)
    return node


def escape_text(text: str) -> str:
    """The OmegaConf string that resolves to `text`: `${` gets a backslash before it."""
    if "${" not in text:
        return text
    return _BACKSLASHES.sub(lambda match: match[1] * 2 + r"\${", text)


def _check_keywords(
    name: str, target: Callable[..., Any], args: Sequence[Any], given: dict[str, Any]
) -> None:
    """A sentence for keywords that the target does not know or misses, instead of a TypeError."""
    try:
        signature = inspect.signature(target)
    except (TypeError, ValueError):
        return
    known = list(signature.parameters)
    open_ended = any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values())
    for key in given:
        if key not in known and not open_ended:
            near = difflib.get_close_matches(str(key), known, 1)
            hint = f"; did you mean {near[0]}?" if near else f"; it takes {', '.join(known)}."
            raise UserError(f"{name} has no option {key}{hint}")
    try:
        signature.bind(*args, **given)
    except TypeError as error:
        raise UserError(f"{name}: {error}.") from error
