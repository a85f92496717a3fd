"""Whether new volumes have room for what they begin with (contract, sections 2.5 and 4.3)."""

from moorage.model.limits import MIB
from moorage.networks.aleph.ledger.lookups import Lookups
from moorage.networks.aleph.messages import rules
from moorage.networks.aleph.messages.contents import Store
from moorage.networks.aleph.messages.program import Parent, PersistentVolume, Program, volume_name
from moorage.networks.aleph.messages.rules import PROCESSED, Rejected, Verdict

VOLUME_TOO_SMALL = 304


def judge(lookups: Lookups, program: Program) -> Verdict:
    """Refuse a program one of whose volumes is smaller than the file that it begins with.

    What an archive unpacks to is seen when the volume is made.
    """
    for index, volume in enumerate(program.volumes):
        if isinstance(volume, PersistentVolume) and volume.parent is not None:
            file, size = _file(lookups, volume.parent)
            room, name = volume.size_mib * MIB, volume_name(volume, index)
            if size > room:
                return Rejected(
                    code=VOLUME_TOO_SMALL,
                    reason=f"the volume {name!r} is smaller than its parent",
                    facts={
                        "volume_name": name,
                        "parent_ref": volume.parent.ref,
                        "parent_file": file,
                        "parent_size": size,
                        "volume_size": room,
                    },
                )
    return PROCESSED


def _file(lookups: Lookups, parent: Parent) -> tuple[str, int]:
    """Find the hash and the size of what a reference leads to."""
    store = rules.resolve(lookups, parent.ref, use_latest=parent.use_latest)
    file = store.content.item_hash if store and isinstance(store.content, Store) else parent.ref
    found = lookups.file(file)
    return file, found[1] if found else 0
