"""Which detector is at least as deep and as wide as another (Li et al., "Partial Order Pruning", CVPR 2019).

Two detectors are comparable only if they differ in nothing but depth, width or number of stages of their modules, as
the modules' Descriptors say; input size, levels, norm and kinds of module must be the same.
"""

from __future__ import annotations

from detsearch.arch.catalogue import Catalogue, catalogue
from detsearch.arch.spec import SLOTS, DetectorSpec, ModuleSpec, NetworkSpec


def leq(a: DetectorSpec, b: DetectorSpec, known: Catalogue | None = None) -> bool:
    """Is b the same detector as a, or a deeper or wider one? Reflexive, antisymmetric, transitive."""
    return a.input == b.input and network_leq(a.network, b.network, known)


def network_leq(a: NetworkSpec, b: NetworkSpec, known: Catalogue | None = None) -> bool:
    """`leq` of networks, whatever their input."""
    known = known or catalogue()
    if a.norm != b.norm:
        return False
    for slot in SLOTS:
        part_a, part_b = a.part(slot), b.part(slot)
        if part_a is None or part_b is None:
            if part_a is not part_b:
                return False
        elif not module_leq(part_a, part_b, known):
            return False
    return True


def module_leq(a: ModuleSpec, b: ModuleSpec, known: Catalogue) -> bool:
    """`leq` of modules, those that stand in their fields included."""
    return type(a) is type(b) and known.of(a).leq(a, b, lambda x, y: module_leq(x, y, known))
