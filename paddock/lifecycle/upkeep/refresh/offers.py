"""Look at what the Hub's commit offers for a catalog entry: its files, and the header of the model file.

The files of a named variant are found by their names, and by their headers only where that is not certain. Where a
variant is to be chosen, the preflight does it, as for a pull.
"""

from __future__ import annotations

from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace

from paddock.chat.template import DERIVED_FILES
from paddock.errors import CorruptFile, FileNotInRevision, PaddockError
from paddock.gguf.difference import HeaderDifference, compare_headers
from paddock.gguf.header import Header
from paddock.gguf.reader import FileSource, read_header
from paddock.lifecycle.assess.model_source import ShardOpener, from_nearest, source_from_listing
from paddock.lifecycle.assess.preflight import Chosen, choose_fitting
from paddock.lifecycle.catalog import CatalogEntry
from paddock.lifecycle.clients import Clients
from paddock.lifecycle.upkeep.refresh.decide import EntryFacts, Offered
from paddock.model.artifact import Listing, Manifest, RepositoryFile, SnapshotFile
from paddock.model.quantization import GgufSet, is_gguf
from paddock.model.reference import Variant
from paddock.model.source import Expected
from paddock.planning.file_selection import AUTO, BEST, FileSelection, select_files
from paddock.planning.plan import PlanRequest
from paddock.planning.profile import PROFILES
from paddock.planning.targets import parse_target
from paddock.transfer.digest import verify_file


@dataclass(frozen=True, slots=True)
class Offer:
    """The files that a commit has for an entry, and the promoted snapshot of that variant, if there is one.
    `bytes_read` came from the Hub to find out."""

    offered: Offered
    listing: Listing
    choice: FileSelection
    promoted: Manifest | None
    bytes_read: int = 0


def context_of(entry: CatalogEntry) -> int:
    """The tokens of context that must fit."""
    return entry.context_tokens or PROFILES[entry.profile].context_tokens


def find_offer(clients: Clients, facts: EntryFacts, listing: Listing) -> Offer:
    """Find the files of an entry in a listing. Raises FileNotInRevision, NoGguf, MissingShard, DoesNotFit,
    ModelRejected, and the errors of the Hub, the transfer and the engine."""
    variant, is_named = facts.variant, facts.entry.wanted_variant is not None
    if variant is not None and not facts.is_choice_old:
        promoted = _promoted(clients, facts, variant)
        choice = _find_named(clients, listing, variant, promoted)
        if choice is not None and (is_named or _same_weights(choice, promoted)):
            return Offer(_offered(clients, choice, promoted), listing, choice, promoted)
    if is_named:
        model = listing.model
        raise FileNotInRevision(
            f"{model}@{listing.revision[:8]} has no {variant}", cure=f"`paddock plan {model}` lists what it has"
        )
    chosen, note = _choose(clients, facts, listing)
    chosen.require_fit()
    promoted = _promoted(clients, facts, chosen.choice.variant)
    offered = _offered(clients, chosen.choice, promoted, note)
    bytes_read = chosen.preflight.bytes_read if chosen.preflight else 0
    return Offer(offered, listing, chosen.choice, promoted, bytes_read)


def require_access(clients: Clients, offer: Offer) -> None:
    """Ask the Hub for the address of the model file where the repository is gated: its files may be here already, from
    a time with access. Costs one request without a body. Raises ModelGated, and the errors of the Hub."""
    if offer.listing.gated:
        first, *_ = offer.choice.model_files
        clients.hub.locate(offer.listing.model, offer.listing.revision, first)


def header_difference(clients: Clients, offer: Offer) -> tuple[HeaderDifference | None, int]:
    """(how the header of the offered model differs from the promoted one's, the bytes of the offered one). None where
    the promoted one cannot be read, or has no model file. Raises as `read_header`, and the errors of the Hub."""
    source = source_from_listing(clients, offer.listing, files=offer.choice.model_files)
    (model,) = source.sets
    after = from_nearest(source.openers, lambda copy: _headers(copy, model))
    size = sum(header.data_offset for header in after)
    if offer.promoted is None:
        return None, size
    try:
        before = _stored_headers(clients, offer.promoted, offer.choice)
    except (PaddockError, FileNotFoundError):
        return None, size
    return (compare_headers(_merged(before), _merged(after)) if before else None), size


def _find_named(
    clients: Clients, listing: Listing, variant: Variant, promoted: Manifest | None
) -> FileSelection | None:
    """The files of a variant. Their names tell, unless the promoted files are there under another name: then the
    headers do. None where the revision does not have it. Raises MissingShard."""
    with suppress(FileNotInRevision):
        choice = select_files(listing, quantization=variant)
        if promoted is None or _same_weights(choice, promoted) or not _has_weights(listing, promoted):
            return choice
    survey = source_from_listing(clients, listing).with_projectors().survey
    try:
        return select_files(listing, survey=survey, quantization=variant)
    except FileNotInRevision:
        return None


def _choose(clients: Clients, facts: EntryFacts, listing: Listing) -> tuple[Chosen, str]:
    """The files that `auto` stands for, and a note where that is another variant than before."""
    request = PlanRequest(context_of(facts.entry), at_most_trained=True)
    target = parse_target(facts.entry.target)
    kept, note = facts.variant, ""
    if kept is None:
        return choose_fitting(
            clients, listing, request, target=target, quantization=AUTO if facts.moves_default else BEST
        ), note
    try:
        chosen = choose_fitting(clients, listing, request, target=target, quantization=kept)
        if chosen.preflight is None or chosen.preflight.plan.fits:
            return chosen, note
        note = f"{kept} does not fit {facts.entry.target} any more"
    except FileNotInRevision:
        note = f"the revision has no {kept} any more"
    return choose_fitting(clients, listing, request, target=target, quantization=BEST), note


def _offered(clients: Clients, choice: FileSelection, promoted: Manifest | None, note: str = "") -> Offered:
    stored = {file.path: file for file in promoted.files} if promoted else {}
    missing = changed_bytes = 0
    changed = []
    for file in choice.files:
        if is_gguf(file.path):
            missing += 0 if file.sha256 and clients.volume.has_blob(file.sha256, file.size) else file.size
        elif not _is_same(clients, file, stored.get(file.path)):
            changed.append(file.path)
            changed_bytes += file.size
    chosen = {file.path for file in choice.files}
    gone = [path for path in stored if path not in chosen | DERIVED_FILES and not is_gguf(path)]
    return Offered(
        variant=choice.variant,
        fetch_bytes=missing + changed_bytes,
        small_bytes=changed_bytes,
        same_weights=_same_weights(choice, promoted),
        changed=tuple(sorted([*changed, *gone])),
        note=note,
    )


def _same_weights(choice: FileSelection, promoted: Manifest | None) -> bool:
    digests = {file.sha256 for file in choice.files if is_gguf(file.path)}
    return promoted is not None and digests == promoted.weights


def _has_weights(listing: Listing, promoted: Manifest) -> bool:
    return promoted.weights <= {file.sha256 for file in listing.files}


def _is_same(clients: Clients, file: RepositoryFile, stored: SnapshotFile | None) -> bool:
    """Whether a small file of the Hub has the bytes of a stored one, which its git blob tells."""
    if stored is None or stored.size != file.size:
        return False
    if file.sha256 is not None:
        return file.sha256 == stored.sha256
    try:
        with clients.volume.reading_blob(stored.sha256) as path:
            expected = Expected(file.size, stored.sha256, file.git_sha1)
            verify_file(path, expected, clients.settings.segment_bytes)
    except PaddockError:  # other bytes, or the stored ones are damaged
        return False
    return file.git_sha1 is not None


def _promoted(clients: Clients, facts: EntryFacts, variant: Variant) -> Manifest | None:
    """The manifest of the promoted snapshot of a variant; None also where it is damaged, and fetched again."""
    id = facts.promoted.of(variant)
    with suppress(CorruptFile):
        return clients.volume.snapshot(id) if id in facts.stored and id is not None else None
    return None


def _headers(copy: ShardOpener, model: GgufSet) -> list[Header]:
    with copy(model) as shards:
        return [read_header(shard) for shard in shards]


def _stored_headers(clients: Clients, promoted: Manifest, choice: FileSelection) -> list[Header]:
    """The headers of the promoted model's files, its projector left out."""
    projector = choice.projector.paths if choice.projector else ()
    files = [file for file in promoted.files if is_gguf(file.path) and file.path not in projector]
    with ExitStack() as stack:
        paths = [stack.enter_context(clients.volume.reading_blob(file.sha256)) for file in files]
        return [read_header(stack.enter_context(FileSource(path))) for path in paths]


def _merged(headers: list[Header]) -> Header:
    """The headers of all shards as one: the metadata of the first, and all tensors."""
    first, *_ = headers
    return replace(first, tensors=tuple(tensor for header in headers for tensor in header.tensors))
