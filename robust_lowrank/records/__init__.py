"""A run directory holds files that stages write and the next ones read.

    RUN/run.json                              RunRecord: configuration, seeds, versions, hashes, parameter counts, status
    RUN/model.safetensors                     the trained weights (`rlr.save`)
    RUN/network.pt2                           the network of a loop of one's own, where no function makes it (`rlr.record`)
    RUN/examples.safetensors                  its test examples, "x" and "y", where they were given as tensors
    RUN/metrics.parquet                       METRICS, a row an epoch
    RUN/spectra.parquet                       SPECTRA, a row an epoch and layer, epoch 0 being the start
    RUN/monitor.parquet                       MONITOR, a row a recorded step and layer, if the configuration has a monitor
    RUN/resume/EPOCH/                         what a training that is interrupted goes on from (`training.resume`)
    RUN/operators.parquet                     OPERATORS, a row a layer of the trained network; older runs have none
    RUN/certificates/NAME.json                CertificateRecord: what was proved, on which assumptions, certified accuracies
    RUN/certificates/NAME.parquet             CERTIFICATE, a row an example
    RUN/results/SUITE/result.json             ResultRecord: threat model, hashes, engines, audit
    RUN/results/SUITE/verdicts.parquet        VERDICTS, a row an example, attack and eps
    RUN/results/SUITE/adversarial.safetensors the inputs that broke an example, keys "ATTACK/EPS/inputs" and "ATTACK/EPS/examples"
    RUN/results/SUITE/closest.safetensors     the most harmful inputs found of those that nothing broke, keys as above
    RUN/results/SUITE/clean.safetensors       the first examples as they are, keys "inputs" and "examples"
    RUN/results/SUITE/transfer.parquet        TRANSFER, what broke other networks tried on this one: a row a network, attack and eps
    RUN/results/SUITE/rounding.parquet        ROUNDING, the verdicts formed again in other ways: a row a way, attack and eps
    RUN/forms/FORM/                           a run directory of the network as it is deployed, with results of its own
    RUN/forms/FORM/network.onnx               the program, of a form that is one
    RUN/forms/FORM/results/SUITE/replayed.parquet      REPLAYED, inputs of the run's network that break the form, and the reverse
    RUN/forms/FORM/results/SUITE/flipped.safetensors   the clean examples whose verdicts are not those on the run's own network

Further results of one suite lie in SUITE-2 and so on. Records are sealed with the files beside them (`records.seals`).
Everything is written to a temporary name and renamed, so a reader never sees half a file. RUN/.lock and RUN/.lock-holder are there
while a process writes (`records.locking`).
"""

from robust_lowrank.records.behaviour import unlike as unlike
from robust_lowrank.records.belonging import strangers as strangers
from robust_lowrank.records.bundles import BundledNetwork as BundledNetwork
from robust_lowrank.records.bundles import BundleFiles as BundleFiles
from robust_lowrank.records.bundles import BundleRecord as BundleRecord
from robust_lowrank.records.bundles import copy_run as copy_run
from robust_lowrank.records.bundles import is_bundle as is_bundle
from robust_lowrank.records.bundles import pack as pack
from robust_lowrank.records.bundles import unpacked as unpacked
from robust_lowrank.records.deployed import Deployed as Deployed
from robust_lowrank.records.deployed import deployed_forms as deployed_forms
from robust_lowrank.records.deployed import flipped as flipped
from robust_lowrank.records.documents import SCHEMA_VERSION as SCHEMA_VERSION
from robust_lowrank.records.documents import AccuracyRecord as AccuracyRecord
from robust_lowrank.records.documents import AuditFinding as AuditFinding
from robust_lowrank.records.documents import CertificateRecord as CertificateRecord
from robust_lowrank.records.documents import Costs as Costs
from robust_lowrank.records.documents import CurvePoint as CurvePoint
from robust_lowrank.records.documents import Latency as Latency
from robust_lowrank.records.documents import LayerBound as LayerBound
from robust_lowrank.records.documents import Parameters as Parameters
from robust_lowrank.records.documents import ResultRecord as ResultRecord
from robust_lowrank.records.documents import RunRecord as RunRecord
from robust_lowrank.records.documents import attack_title as attack_title
from robust_lowrank.records.documents import now as now
from robust_lowrank.records.files import replacing as replacing
from robust_lowrank.records.files import replacing_directory as replacing_directory
from robust_lowrank.records.files import write_frame as write_frame
from robust_lowrank.records.files import write_record as write_record
from robust_lowrank.records.files import write_text as write_text
from robust_lowrank.records.frames import read_frame as read_frame
from robust_lowrank.records.frames import read_table as read_table
from robust_lowrank.records.layout import BLACK_BOX as BLACK_BOX
from robust_lowrank.records.layout import FORM as FORM
from robust_lowrank.records.layout import ResultFiles as ResultFiles
from robust_lowrank.records.layout import RunFiles as RunFiles
from robust_lowrank.records.layout import require_plain as require_plain
from robust_lowrank.records.locking import holder_of as holder_of
from robust_lowrank.records.locking import is_vacant as is_vacant
from robust_lowrank.records.locking import leftovers as leftovers
from robust_lowrank.records.locking import sharing as sharing
from robust_lowrank.records.locking import writing as writing
from robust_lowrank.records.parsing import faults as faults
from robust_lowrank.records.parsing import read_json as read_json
from robust_lowrank.records.parsing import read_record as read_record
from robust_lowrank.records.run import Certificate as Certificate
from robust_lowrank.records.run import Result as Result
from robust_lowrank.records.run import Run as Run
from robust_lowrank.records.run import read_forms as read_forms
from robust_lowrank.records.run import read_run as read_run
from robust_lowrank.records.seals import broken_seals as broken_seals
from robust_lowrank.records.seals import write_sealed as write_sealed
from robust_lowrank.records.superseding import supersedes as supersedes
from robust_lowrank.records.tables import CERTIFICATE as CERTIFICATE
from robust_lowrank.records.tables import CURVE as CURVE
from robust_lowrank.records.tables import METRICS as METRICS
from robust_lowrank.records.tables import MONITOR as MONITOR
from robust_lowrank.records.tables import OPERATORS as OPERATORS
from robust_lowrank.records.tables import REPLAYED as REPLAYED
from robust_lowrank.records.tables import ROUNDING as ROUNDING
from robust_lowrank.records.tables import SPECTRA as SPECTRA
from robust_lowrank.records.tables import TRANSFER as TRANSFER
from robust_lowrank.records.tables import VERDICT as VERDICT
from robust_lowrank.records.tables import VERDICTS as VERDICTS
from robust_lowrank.records.tables import applied as applied
