"""Methods are known by name."""

import inspect

from robust_lowrank.errors import UserError, unknown_name
from robust_lowrank.methods.adalora import AdaLoRA as AdaLoRA
from robust_lowrank.methods.base import Method as Method
from robust_lowrank.methods.condlr import CondLR as CondLR
from robust_lowrank.methods.dlrt import DLRT as DLRT
from robust_lowrank.methods.galerkin import GalerkinMethod as GalerkinMethod
from robust_lowrank.methods.geolora import RGD as RGD
from robust_lowrank.methods.geolora import GeoLoRA as GeoLoRA
from robust_lowrank.methods.lora import LoRA as LoRA
from robust_lowrank.methods.lora import ScaledLoRA as ScaledLoRA
from robust_lowrank.methods.retraction import RetractionMethod as RetractionMethod
from robust_lowrank.methods.robust_dlrt import RobustDLRT as RobustDLRT
from robust_lowrank.methods.spectral_clamp import SpectralClamp as SpectralClamp
from robust_lowrank.methods.stella import StelLA as StelLA
from robust_lowrank.methods.stiefel import CayleySGD as CayleySGD
from robust_lowrank.methods.stiefel import Landing as Landing
from robust_lowrank.methods.stiefel import ProjectedSGD as ProjectedSGD
from robust_lowrank.methods.svd import SVD as SVD
from robust_lowrank.methods.tdlrt import TDLRT as TDLRT
from robust_lowrank.methods.usv import USV as USV
from robust_lowrank.methods.vanilla import Vanilla as Vanilla

LOW_RANK = (CondLR, DLRT, TDLRT, GeoLoRA, RobustDLRT, RGD, Vanilla, USV, SVD)
WHOLE = (ProjectedSGD, CayleySGD, Landing, SpectralClamp)
METHODS: dict[str, type[Method]] = {method.name: method for method in (*LOW_RANK, *WHOLE)}
ADAPTERS: dict[str, type[Method]] = {method.name: method for method in (LoRA, ScaledLoRA, AdaLoRA, StelLA)}  # of frozen weights


def resolve(method: str | Method) -> Method:
    """Return the method itself, or the one of that name with its default settings.

    Example:
        >>> resolve("condlr")
        CondLR(tau=0.1, precond='exact', reference='exact', retraction='qr')

    Raises:
        UserError: there is no method of that name, or it has settings without a default.
    """
    if isinstance(method, Method):
        return method
    if not isinstance(method, str):
        said = method.__name__ if isinstance(method, type) else repr(method)
        raise UserError(f"method = {said} is neither a name such as 'condlr' nor an object such as CondLR()")
    kind = named(method)
    if needed := [p.name for p in inspect.signature(kind).parameters.values() if p.default is p.empty]:
        raise UserError(
            f"{method} needs {' and '.join(needed)}: give the object {kind.__name__}({', '.join(f'{n}=...' for n in needed)})"
        )
    return kind()


def named(name: str) -> type[Method]:
    """Return the class of the method of that name.

    Raises:
        UserError: there is none.
    """
    methods = METHODS | ADAPTERS
    if name not in methods:
        raise unknown_name("method", name, methods)
    return methods[name]
