"""What the passes that turn constants of the plan into codes have in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from onnx import TensorProto

from onnxq.calibration.solve import QParamsTable
from onnxq.graph.view import Graph
from onnxq.graph.weights_file import WeightsFile
from onnxq.passes.base import Pass, PassLog, PassResult
from onnxq.planning.plan import QuantPlan, Role, TensorPlan


class Fold(Pass):
    """Visits the tensors of some roles that are still read in float.

    Args:
        plan: What to fold.
        qparams: The parameters.
        weights: Takes the codes; None leaves them in the graph.
    """

    roles: ClassVar[frozenset[Role]]

    def __init__(self, plan: QuantPlan, qparams: QParamsTable, weights: WeightsFile | None = None) -> None:
        self._plan = plan
        self._qparams = qparams
        self._weights = weights

    def run(self, graph: Graph) -> PassResult:
        log = PassLog()
        for key, tensor in self._plan.tensors.items():
            if tensor.role not in self.roles:
                continue
            reads = [use.node for use in tensor.uses if graph.node(use.node).input[use.slot] == tensor.name]
            if reads:
                self.fold(graph, key, tensor, reads)
                if not graph.uses(tensor.name) and not graph.is_output(tensor.name):
                    graph.remove_initializer(tensor.name)
                log.edit(f"{tensor.role.value} {tensor.name!r} to {tensor.spec.qtype.name}", *reads)
        return log.result(graph)

    @abstractmethod
    def fold(self, graph: Graph, key: str, tensor: TensorPlan, reads: Sequence[str]) -> None:
        """Give the nodes `reads` codes of `tensor`, whose key in the plan is `key`."""

    def stored(self, codes: TensorProto) -> TensorProto:
        """`codes` with their data in the file for weights, where there is one."""
        return codes if self._weights is None else self._weights.moved(codes)
