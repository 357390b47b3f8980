"""Placement on the inputs of nodes with weights (TensorRT, OpenVINO).

The engine runs a node in int8 when its inputs come from DQ; what follows (bias, activation, residual Add) fuses behind
it in higher precision, so no Q goes there:

    x -> Q/DQ -> Conv -> Relu -> Q/DQ -> Conv2

A residual Add reads its skip branch through a pair, so that Conv + Add fuse into one int8 kernel (R22). If x
already has a pair for another Conv, it is the same pair (R23):

    x -> Q/DQ -+-> Conv -> Relu -> Q/DQ -> Conv --+
               +---------------------------------+-> Add

Where the target says so, the Add of large tensors reads both through pairs, so that what the Conv writes and the Add
reads are codes (V16).
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property

from onnx import NodeProto

from onnxq.graph.float_types import is_quantizable
from onnxq.graph.view import STANDARD_DOMAINS, Graph, Use
from onnxq.planning.compute import DATA, ComputeSite, ProductSite
from onnxq.planning.groups import Groups
from onnxq.planning.options import Selection
from onnxq.planning.plan import Action
from onnxq.planning.tables import Decided
from onnxq.planning.work import Works
from onnxq.targets.schema import Target

_MOVES_ONLY = frozenset(
    {"MaxPool", "Reshape", "Transpose", "Slice", "Split", "Squeeze", "Unsqueeze", "Gather", "Flatten"}
)


class InputPairs:
    """Q/DQ pairs on inputs.

    Attributes:
        uses: By tensor, the reads that get the dequantized value.
        adds: What becomes of residual Adds that fuse with a Conv or run on codes.
        groups: Tensors that share parameters.
    """

    def __init__(
        self,
        graph: Graph,
        target: Target,
        sites: dict[str, ComputeSite],
        selection: Selection,
        products: Iterable[ProductSite] = (),
    ) -> None:
        self._graph = graph
        self._target = target
        self._sites = sites
        self.uses: dict[str, list[Use]] = {}
        self.adds: dict[str, Decided] = {}
        self.groups = Groups()
        for site in sites.values():
            self.uses.setdefault(site.data, []).append(Use(site.node, DATA))
        for product in products:
            for slot, tensor in enumerate(product.operands):
                self.uses.setdefault(tensor, []).append(Use(product.node, slot))
        for node in graph.nodes:
            if node.domain in STANDARD_DOMAINS and not selection.forbids(node):
                self._quantize_neighbour(node)
        if target.concat_shares:
            self._share()

    def _quantize_neighbour(self, node: NodeProto) -> None:
        """Let a node without weights read pairs, where the target has a rule for it."""
        if node.op_type == "Add" and (self._target.residual_add or self._target.sum_pairs):
            self._quantize_skip(node)
        elif node.op_type == "MaxPool" and self._target.pool_pairs:
            self._quantize_pool(node)
        elif node.op_type in _MOVES_ONLY and node.op_type != "MaxPool" and self._target.moved_pairs:
            self._quantize_moved(node)

    # ---- MaxPool (V10) -------------------------------------------------------------------------------------------

    def _quantize_pool(self, pool: NodeProto) -> None:
        """Give the input of a MaxPool the pair of its output, where nothing else would get a value that is rounded."""
        x, y = pool.input[0], pool.output[0]
        if y not in self.uses or not self._is_quantizable(x):
            return
        if x not in self.uses and (len(self._graph.uses(x)) > 1 or self._graph.is_output(x) or self._graph.is_input(x)):
            return
        self.uses.setdefault(x, []).append(Use(pool.name, 0))
        self.groups.union([x, y])

    # ---- what moves values (V13) ---------------------------------------------------------------------------------

    def _quantize_moved(self, mover: NodeProto) -> None:
        """Let `mover` read the pair that its input has, where all that reads what it moves reads a pair as well."""
        x = mover.input[0]
        moved = self._moved_to_pairs(mover) if x in self.uses else None
        if moved:
            self.uses[x].append(Use(mover.name, 0))
            self.groups.union([x, *moved])

    def _moved_to_pairs(self, mover: NodeProto) -> list[str] | None:
        """The tensors with pairs that `mover` makes or hands on; None where something reads one of them in float."""
        found: list[str] = []
        for tensor in filter(None, mover.output):
            if self._graph.is_output(tensor):
                return None
            with_pair = set(self.uses.get(tensor, ()))
            found += [tensor] if with_pair else []
            for use in self._graph.uses(tensor):
                if use in with_pair:
                    continue
                reader = None if use.slot else self._graph.node(use.node)
                further = self._moved_to_pairs(reader) if reader is not None and _only_moves(reader) else None
                if further is None:
                    return None
                found += further
        return found

    # ---- residual Add (R22) --------------------------------------------------------------------------------------

    def _quantize_skip(self, add: NodeProto) -> None:
        slot, codes = self._skip_slot(add), self._target.codes
        if slot is None:
            return
        if self._target.residual_add:
            self.uses.setdefault(add.input[slot], []).append(Use(add.name, slot))
            reason = f"fuses with its Conv; the skip branch {add.input[slot]!r} is {codes}"
            self.adds[add.name] = Action.FUSED, reason, "R22"
        elif self._is_large_sum(add, add.input[1 - slot]):
            for each, tensor in enumerate(add.input):
                self.uses.setdefault(tensor, []).append(Use(add.name, each))
            self.adds[add.name] = Action.INT8, f"fuses with its Conv; both branches are {codes}", "V16"

    def _is_large_sum(self, add: NodeProto, main: str) -> bool:
        """Whether codes save more traffic than a pair on both branches costs accuracy; a ConvTranspose fuses no sum."""
        conv = self._graph.producer(main)
        is_conv = conv is not None and conv.op_type == "Conv"
        return is_conv and self._works.elements(add.output[0]) >= self._target.sum_pairs

    @cached_property
    def _works(self) -> Works:
        return Works(self._graph, self._sites)

    def _skip_slot(self, add: NodeProto) -> int | None:
        """The slot of the skip branch of `add`; None where no int8 Conv fuses with it."""
        left, right = add.input
        graph = self._graph
        if left == right or any(graph.is_constant(t) or not self._is_quantizable(t) for t in (left, right)):
            return None
        if graph.rank(left) is None or graph.rank(left) != graph.rank(right):
            return None
        fusable = [self._is_conv_branch(t) for t in (left, right)]
        if not any(fusable):
            return None
        if not all(fusable):
            return 1 if fusable[0] else 0
        # Two Convs meet (a downsampling block): the longer way back to the fork is the main branch and fuses.
        lengths = self._path_lengths(left, right)
        return 1 if lengths[0] >= lengths[1] else 0

    def _is_quantizable(self, tensor: str) -> bool:
        return is_quantizable(self._graph, tensor, half_types=self._target.half_types)

    def _is_conv_branch(self, tensor: str) -> bool:
        node = self._graph.producer(tensor)
        return (
            node is not None
            and node.name in self._sites
            and node.op_type in ("Conv", "ConvTranspose")
            and len(self._graph.uses(tensor)) == 1
            and not self._graph.is_output(tensor)
        )

    def _path_lengths(self, left: str, right: str) -> tuple[int, int]:
        """Nodes from each tensor back to the nearest common ancestor."""
        from_left, from_right = self._distances(left), self._distances(right)
        common = [t for t in from_left if t in from_right]
        if not common:
            return 0, 0
        fork = min(common, key=lambda t: (from_left[t] + from_right[t], t))
        return from_left[fork], from_right[fork]

    def _distances(self, tensor: str) -> dict[str, int]:
        distance, front = {tensor: 0}, [tensor]
        while front:
            node = self._graph.producer(front.pop(0))
            if node is None:
                continue
            steps = distance[next(t for t in node.output if t in distance)] + 1
            for name in node.input:
                if name and name not in distance and not self._graph.is_constant(name):
                    distance[name] = steps
                    front.append(name)
        return distance

    # ---- shared parameters (R24, R25) ----------------------------------------------------------------------------

    def _share(self) -> None:
        for node in self._graph.nodes:
            if node.domain not in STANDARD_DOMAINS:
                continue
            if node.op_type == "Concat" and node.output[0] in self.uses:
                members = [t for t in node.input if t in self.uses]
                if members:
                    self.groups.union([node.output[0], *members])
            elif _only_moves(node) and node.input[0] in self.uses:
                outputs = [t for t in node.output if t in self.uses]
                if outputs:
                    self.groups.union([node.input[0], *outputs])


def _only_moves(node: NodeProto) -> bool:
    return node.op_type in _MOVES_ONLY and node.domain in STANDARD_DOMAINS
