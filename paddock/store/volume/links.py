"""Links in the volume's root: relative symbolic links to the promoted snapshots, each replaced by one rename.

    org--name            -> org--name--<variant>                                       the default variant
    org--name--<variant> -> .paddock/snapshots/org--name/<revision>/<variant>          each promoted variant

A link's target tells which model it belongs to. A link or file that is not the model's own is never replaced.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path

from paddock.errors import NoPermission, UnsafeName
from paddock.model.names import ModelName, Revision, is_revision
from paddock.model.reference import Variant, parse_variant
from paddock.store import durable
from paddock.store.durable import disk_errors
from paddock.store.history import Promoted
from paddock.store.volume.layout import Layout

_NOT_A_LINK = ""


class PromotedLinks:
    def __init__(self, layout: Layout) -> None:
        self.root = layout.root
        self._layout = layout

    @disk_errors
    def check_available(self, model: ModelName, variant: Variant, *, default: bool = True) -> None:
        """Check the names that a promotion needs: the variant's link, and the default's where `default` says so.
        Raises NoPermission when something that is not the model's own has one of them."""
        needed = [(self._layout.variant_link(model, variant), self._is_variant_link(model, variant))]
        if default:
            needed.append((self._layout.default_link(model), self._is_default_link(model)))
        for link, is_own in needed:
            target = _target(link)
            if target is None or is_own(target):
                continue
            conflict = f"{link} is in the way of {model}:{variant}"
            if self._is_any_models(target):
                raise NoPermission(
                    f"{conflict}: it shows another model, {target}", cure="remove that model, or do without"
                )
            what = f"a link to {target}" if target else "no link of Paddock's"
            raise NoPermission(f"{conflict}: it is {what}", cure="look at it and move it away, then promote again")

    @disk_errors
    def read(self, model: ModelName) -> Promoted:
        """The promoted state of a model as its links show it."""
        revisions = {}
        prefix = f"{model.slug}--"
        for name in self._layout.names(self._layout.root):
            try:
                variant = parse_variant(name.removeprefix(prefix)) if name.startswith(prefix) else None
            except UnsafeName:
                continue
            target = _target(self._layout.root / name) if variant else None
            if variant and target and self._is_variant_link(model, variant)(target):
                revisions[variant] = _revision_in(target)
        default = _default_in(model, _target(self._layout.default_link(model)) or "")
        return Promoted(model, default if default in revisions else None, revisions)

    @disk_errors
    def read_all(self) -> dict[ModelName, Promoted]:
        """The promoted state of every model that has a link, for one look at the root."""
        directory = f"{self._layout.snapshots.relative_to(self._layout.root).as_posix()}/"
        revisions: dict[str, dict[Variant, Revision]] = {}
        defaults: dict[str, str] = {}
        for name in self._layout.names(self._layout.root):
            target = _target(self._layout.root / name) or ""
            if "/" not in target:
                defaults[name] = target
                continue
            slug, _, variant = name.rpartition("--")
            if target.startswith(f"{directory}{slug}/"):
                with suppress(UnsafeName):
                    is_own = self._is_variant_link(ModelName.from_slug(slug), parse_variant(variant))
                    if is_own(target):
                        revisions.setdefault(slug, {})[Variant(variant)] = _revision_in(target)
        states = {}
        for slug, found in revisions.items():
            model = ModelName.from_slug(slug)
            default = _default_in(model, defaults.get(slug, ""))
            states[model] = Promoted(model, default if default in found else None, found)
        return states

    @disk_errors
    def apply(self, state: Promoted, variant: Variant) -> None:
        """Move the links of one variant and of the default to where `state` says: the variant's first; a link that goes
        is removed last."""
        model, promoted = state.model, state.of(variant)
        if promoted is not None:
            target = self._layout.snapshot(promoted).relative_to(self._layout.root).as_posix()
            link = self._layout.variant_link(model, variant)
            self._point(link, target, self._is_variant_link(model, variant))
        default = self._layout.default_link(model)
        if state.default is not None:
            self._point(default, f"{model.slug}--{state.default}", self._is_default_link(model))
        else:
            self._unlink(default, lambda target: _default_in(model, target) is not None)
        if promoted is None:
            self._unlink(self._layout.variant_link(model, variant), self._is_variant_link(model, variant))

    @disk_errors
    def remove_old(self, model: ModelName, directories: Collection[Path]) -> None:
        """Remove the model's default link where it points at one of these snapshots of schema 1."""
        old = {directory.relative_to(self._layout.root).as_posix() for directory in directories}
        self._unlink(self._layout.default_link(model), old.__contains__)

    def is_link(self, path: Path) -> bool:
        """Whether a path in the root is a link that Paddock made."""
        target = _target(path)
        return bool(target) and self._is_any_models(target or "")

    def _point(self, link: Path, target: str, is_own: Callable[[str], bool]) -> None:
        current = _target(link)
        if current == target:
            return
        if current is not None and not is_own(current):  # taken after a process that then died had checked the name
            return
        staged = durable.staging_name(self._layout.make_directory(self._layout.private))
        try:
            staged.symlink_to(target)
            staged.replace(link)
        finally:
            staged.unlink(missing_ok=True)
        durable.sync_directory(self._layout.root)

    def _unlink(self, link: Path, is_own: Callable[[str], bool]) -> None:
        target = _target(link)
        if target and is_own(target):
            link.unlink(missing_ok=True)
            durable.sync_directory(self._layout.root)

    def _is_variant_link(self, model: ModelName, variant: Variant) -> Callable[[str], bool]:
        """A test for targets: whether a link with that target shows a snapshot of the variant."""
        directory = self._snapshots_of(model)

        def is_own(target: str) -> bool:
            parent, _, name = target.rpartition("/")
            grandparent, _, revision = parent.rpartition("/")
            return grandparent == directory and name == variant and is_revision(revision)

        return is_own

    def _is_default_link(self, model: ModelName) -> Callable[[str], bool]:
        """A test for targets: whether a link with that target shows one of the model's variants, or one of its
        revisions, as links of schema 1 do."""
        directory = self._snapshots_of(model)

        def is_own(target: str) -> bool:
            parent, _, revision = target.rpartition("/")
            return _default_in(model, target) is not None or (parent == directory and is_revision(revision))

        return is_own

    def _is_any_models(self, target: str) -> bool:
        """Whether a link with that target looks like one that Paddock made."""
        directory = self._layout.snapshots.relative_to(self._layout.root).as_posix()
        return target.startswith(f"{directory}/") or ("/" not in target and "--" in target)

    def _snapshots_of(self, model: ModelName) -> str:
        return (self._layout.snapshots / model.slug).relative_to(self._layout.root).as_posix()


def _default_in(model: ModelName, target: str) -> Variant | None:
    """The variant that a default link with that target shows; None for any other target."""
    prefix = f"{model.slug}--"
    try:
        return parse_variant(target.removeprefix(prefix)) if target.startswith(prefix) else None
    except UnsafeName:
        return None


def _revision_in(target: str) -> Revision:
    """The revision in the target of a variant's link, `…/<revision>/<variant>`."""
    return Revision(target.rpartition("/")[0].rpartition("/")[2])


def _target(link: Path) -> str | None:
    """The target of a link; None where the name is free, _NOT_A_LINK where it is a file or a directory."""
    try:
        return str(link.readlink())
    except OSError as error:
        if error.errno in {errno.ENOENT, errno.ENOTDIR}:
            return None
        if error.errno == errno.EINVAL:
            return _NOT_A_LINK
        raise
