"""An evaluation and each of its units are known by hashes of all that their verdicts depend on."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from robust_lowrank.evaluation.attacks.base import Attack, JointAttack, NativeAttack
from robust_lowrank.evaluation.attacks.registry import title_of
from robust_lowrank.evaluation.suite import EvalConfig
from robust_lowrank.evaluation.units import Unit
from robust_lowrank.provenance import digest_definition, digest_tensors, versions


@dataclass(frozen=True)
class Identity:
    """The network, the examples and the attacks of an evaluation, which it names by hashes and by a definition."""

    weights: str
    x: Tensor
    y: Tensor
    config: EvalConfig
    units: Sequence[Unit]
    classes: int
    sources: Sequence[nn.Module]

    def hashes(self) -> dict[str, str]:
        """Return the names of the network, the examples and the attacks."""
        return {
            "weights": self.weights,
            "data": digest_tensors({"x": self.x, "y": self.y}),
            "attack": digest_definition(self.definition()),
        }

    def definition(self) -> dict[str, Any]:
        """Return the suite as it runs, every parameter explicit."""
        suite = self.config.suite
        return {
            "suite": suite.name,
            "description": suite.description,
            "norm": suite.norm,
            "seed": self.config.seed,
            "attacks": [self._entry(attack, self._units_of(attack)) for attack in self._attacks()],
        }

    def described(self) -> dict[str, Any]:
        """Return the definition for the record, with what reports want to know of each attack, which enters no hash."""
        definition = self.definition()
        pairs = zip(definition["attacks"], self._attacks(), strict=True)
        attacks = [entry | {"title": title_of(entry["name"]), "minimal": attack.minimal} for entry, attack in pairs]
        return definition | {"attacks": attacks}

    def _attacks(self) -> list[Attack]:
        return list({id(unit.attack): unit.attack for unit in self.units}.values())

    def unit_key(self, unit: Unit, batch: Tensor, earlier: Sequence[str]) -> str:
        """Return the hash that names a unit on a batch: the network, examples and attack, and the units that it goes on from."""
        x, y = self.x[batch.to(self.x.device)], self.y[batch.to(self.y.device)]
        entry = self._entry(unit.attack, self._units_of(unit.attack) if unit.attack.at_once else [unit])
        parts = {
            "weights": self.weights,
            "data": digest_tensors({"x": x, "y": y}),
            "first": self.config.offset + int(batch[0]),
            "attack": entry | {"seed": self.config.seed, "norm": unit.threat.norm, "versions": versions()},
            "earlier": list(earlier),
            "fold": self.config.fold,
        }
        return digest_definition(parts)

    def _units_of(self, attack: Attack) -> list[Unit]:
        return [unit for unit in self.units if unit.attack is attack]

    def _entry(self, attack: Attack, units: Sequence[Unit]) -> dict[str, Any]:
        """Return one attack of the definition."""
        entry = attack.model_dump(mode="json") | {"name": units[0].name, "eps": sorted(unit.threat.eps for unit in units)}
        if self.config.suite.norm in attack.revised:
            entry["revision"] = 2
        if isinstance(attack, JointAttack):
            settings = attack.settings(self.classes, tuple(self.x.shape[1:]), units[0].threat)
            return entry | {"batch_size": self.config.batch_size} | settings
        if attack.transfers:
            entry["sources"] = [digest_tensors(source.state_dict()) for source in self.sources]
        assert isinstance(attack, NativeAttack)
        details = [attack.details(eps) for eps in entry["eps"]]
        return entry | {f"{name}s": [detail[name] for detail in details] for name in details[0]}
