"""Every attention method by name: the built-in ones, and those that installed packages offer.

A package offers one under the entry point group `dicom_gam.attention_methods`: its name, and a callable that maps a
`core.head_case.HeadCase` to raw evidence (N, h, w[, d]). A built-in name can't be taken. Names are known without
importing anything; a package is imported when its method is first asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points

from dicom_gam.core import attention_methods as by_gradients
from dicom_gam.core.attention_methods import FusedMultiClassGradCAM, Method
from dicom_gam.core.attention_search import ablationcam, scorecam
from dicom_gam.core.cluster_filter import ClusterFilterCAM
from dicom_gam.errors import BundleError

GROUP = "dicom_gam.attention_methods"
BUILT_IN: Mapping[str, Method] = {
    "hirescam": by_gradients.hirescam,
    "gradcam": by_gradients.gradcam,
    "cfcam": ClusterFilterCAM(),
    "cfcam-softmax": ClusterFilterCAM("softmax"),
    "gradcam++": by_gradients.gradcam_plus_plus,
    "xgradcam": by_gradients.xgradcam,
    "layercam": by_gradients.layercam,
    "eigencam": by_gradients.eigencam,
    "ablationcam": ablationcam,
    "shapleycam": by_gradients.shapleycam,
    "fmgcam": FusedMultiClassGradCAM(),
    "scorecam": scorecam,
}


class MethodRegistry(Mapping[str, Method]):
    """Method by name, the built-in ones first.

    Raises KeyError for a name that nothing offers, and BundleError, which names the package, where a package's method
    can't be loaded or two packages offer the same name.
    """

    def __getitem__(self, name: str) -> Method:
        return BUILT_IN[name] if name in BUILT_IN else load_plugin(name)

    def __contains__(self, name: object) -> bool:
        return name in BUILT_IN or name in entry_points(group=GROUP).names

    def __iter__(self) -> Iterator[str]:
        return iter([*BUILT_IN, *sorted(entry_points(group=GROUP).names - BUILT_IN.keys())])

    def __len__(self) -> int:
        return len(list(iter(self)))


METHODS = MethodRegistry()


@lru_cache(maxsize=64)
def load_plugin(name: str) -> Method:
    """Import and keep the method of an installed package; raises as `MethodRegistry` does."""
    found = list(entry_points(group=GROUP, name=name))
    if not found:
        raise KeyError(name)
    packages = " and ".join(sorted({_package(entry) for entry in found}))
    if len({(_package(entry), entry.value) for entry in found}) > 1:
        raise BundleError(f"attention method {name!r} is offered by {packages}: uninstall all but one of them")
    try:
        method = found[0].load()
    except Exception as error:  # whatever a foreign package raises while it is imported
        raise BundleError(
            f"attention method {name!r} of {packages} can't be loaded ({type(error).__name__}: {error}). "
            "Repair or uninstall that package, or name another method"
        ) from error
    if not callable(method):
        raise BundleError(
            f"attention method {name!r} of {packages} is no callable but {type(method).__name__}: tell its authors, "
            "and name another method"
        )
    loaded: Method = method
    return loaded


def _package(entry: EntryPoint) -> str:
    return (
        f"{entry.dist.name} {entry.dist.version}" if entry.dist is not None else f"an unknown package ({entry.value})"
    )
