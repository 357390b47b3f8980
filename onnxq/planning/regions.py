"""Placement where int8 kernels read and write codes (ONNX Runtime).

A kernel takes codes in and gives codes out, so a node runs in int8 when all its activations come from a DQ and its
output goes to a Q. Nodes with weights always pay. The operators between them pay only inside a region:

    Conv -> [Relu] -> Q/DQ -> MaxPool -> Q/DQ -> Conv        MaxPool moves codes, same parameters
    Conv -> Q/DQ -+-> Sigmoid -> Q/DQ -+-> Mul -> Q/DQ -> Conv   both read codes, and codes are wanted behind them
                  +--------------------+
    Conv -> Q/DQ -> HardSigmoid ...                       no int8 kernel: float between a DQ and the next Q

The set of int8 nodes is the greatest fixed point: start with every node that has a kernel, drop those that would need a
Q of their own on an input or whose output nobody wants as codes, until nothing changes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from onnx import NodeProto

from onnxq.graph.view import STANDARD_DOMAINS, Graph, attribute
from onnxq.planning.bounds import clip_limits
from onnxq.planning.compute import ComputeSite
from onnxq.planning.options import Selection
from onnxq.targets.schema import Target

# An operand this many times smaller than the output (a squeeze-and-excite gate) is quantized for its neighbour's sake.
_SMALL_OPERAND = 16
_CONVERTS_OTHERS = frozenset({"Add", "Concat"})
"""Of these one operand in codes is enough, whatever computes the others."""
# onnxruntime 1.31 drops two activations in a row in front of a Q, but not three of one type.
_MOST_FUSED = 2
MOST_DEQUANTIZERS = 2
"""So many float readers of one tensor of codes have a DequantizeLinear each; more share one, whose result is copied."""


class Regions:
    """The int8 nodes of one graph and the tensors between them.

    Args:
        graph: The float graph.
        target: Its table.
        sites: The nodes with weights that run in int8.
        selection: What the user keeps in float.
        avoided: Names of further nodes to keep in float.

    Attributes:
        members: Names of the int8 nodes, weights or not.
        fused: Activation nodes that disappear, with the int8 node that takes each in.
        quantized: Tensors that carry a Q/DQ pair, in graph order.
        holds: Tensors behind which the engine must not look, in graph order.
    """

    def __init__(
        self,
        graph: Graph,
        target: Target,
        sites: dict[str, ComputeSite],
        selection: Selection,
        avoided: Collection[str] = (),
    ) -> None:
        self._graph = graph
        self._target = target
        self._sites = sites
        bias_adds = {s.bias_use.node for s in sites.values() if s.bias_use is not None} - set(sites)
        self.members = set(sites) | {
            n.name
            for n in graph.nodes
            if self._has_kernel(n) and not (n.name in bias_adds or n.name in avoided or selection.excludes(n))
        }
        self._tail: dict[str, tuple[str, list[str]]] = {}
        for name in self.members:
            self._tail[name] = self._follow_tail(graph.node(name), selection)
        self._settle()
        self.quantized = self._quantized_tensors()
        # A MatMul may write float; but where a Q reads its output, nothing else may (C1).
        for site in sites.values():
            for tensor in {site.output, self.output_of(site.node)}.intersection(self.quantized):
                self._writer[tensor] = site.node
        self.fused = {
            f: name
            for name in self.members
            if self.code_writer(self.output_of(name)) == name
            for f in self._tail[name][1]
        }
        held = [*self._taken_between_pairs(), *self._taken_by_followers(), *self._moved_too_far()]
        held = [] if target.everywhere else held
        self.holds = in_graph_order(graph, held)

    def output_of(self, name: str) -> str:
        """The tensor where the codes of int8 node `name` come out: behind the activations fused into it."""
        return self._tail[name][0]

    def writes_codes(self, name: str) -> bool:
        """Whether the kernel of int8 node `name` needs a Q behind it."""
        return name not in self._sites or self._sites[name].rule.output_quantized

    def data_inputs(self, node: NodeProto) -> list[str]:
        """The activations that `node`, run in int8, reads as codes; constants are left out."""
        site = self._sites.get(node.name)
        if site is not None:
            return [site.data]
        slots = node.input[:1] if node.op_type in self._target.pass_through else node.input
        return [t for t in slots if t and not self._graph.is_constant(t)]

    def code_writer(self, tensor: str) -> str | None:
        """The int8 node whose codes come out as `tensor`, if one has to write them."""
        name: str | None = self._writer.get(tensor)
        return name if name in self.members else None

    def moves_codes(self, node: NodeProto) -> bool:
        """Whether `node` is in a region and hands on the codes of its input 0 unchanged."""
        return node.name in self.members and node.op_type in self._target.pass_through

    # ---- which nodes ---------------------------------------------------------------------------------------------

    def _has_kernel(self, node: NodeProto) -> bool:
        """Whether a node without weights has an int8 kernel here, looked at alone."""
        if node.domain not in STANDARD_DOMAINS:
            return False
        rule = self._target.pass_through.get(node.op_type)
        if rule is not None:
            if any(attribute(node, key, value) != value for key, value in rule.attributes.items()):
                return False
            if self._graph.is_constant(node.input[0]):
                return False  # an embedding: there are no codes to move
        elif node.op_type not in self._target.elementwise:
            return False
        tensors = [*(node.input[:1] if rule else node.input), *node.output]
        # MaxPool with indices and the like have an output that is no activation.
        if self._target.everywhere and rule is None:
            # Constant integers are axes and sizes.
            tensors = [t for t in tensors if self._graph.is_float(t) or not self._graph.is_constant(t)]
        return all(self._graph.is_float(t) for t in tensors if t) and not self._all_constant(node)

    def _all_constant(self, node: NodeProto) -> bool:
        return all(self._graph.is_constant(t) for t in node.input if t)

    def _follow_tail(self, node: NodeProto, selection: Selection) -> tuple[str, list[str]]:
        """The tensor behind the activations that become part of `node`'s rounding, and those nodes (C5)."""
        site = self._sites.get(node.name)
        tensor, fused = site.output if site is not None else node.output[0], list[str]()
        if node.op_type in self._target.pass_through or len(node.output) > 1:
            return tensor, fused
        while len(fused) < _MOST_FUSED and not self._graph.is_output(tensor):
            uses = self._graph.uses(tensor)
            if len(uses) != 1 or uses[0].slot != 0:
                break
            follower = self._graph.node(uses[0].node)
            if selection.forbids(follower) or not self._rounds_away(follower):
                break
            fused.append(follower.name)
            tensor = follower.output[0]
        return tensor, fused

    def _rounds_away(self, node: NodeProto) -> bool:
        """Whether uint8 codes of the activation's own range make `node` redundant: a Relu, or a Clip from 0 upwards."""
        if node.op_type not in self._target.fused_activations or node.domain not in STANDARD_DOMAINS:
            return False
        if node.op_type == "Relu":
            return True
        lower, upper = clip_limits(self._graph, node)
        return lower == 0.0 and (upper is None or upper > 0.0)

    def _settle(self) -> None:
        """Drop nodes until every one left reads codes and is wanted as codes."""
        self._writer: dict[str, str] = {}
        for name in self.members:
            if self.writes_codes(name):
                outputs = self._graph.node(name).output
                for tensor in outputs if len(outputs) > 1 else (self._tail[name][0],):
                    self._writer[tensor] = name
        if self._target.everywhere:
            return
        optional = [n for n in self._graph.nodes if n.name in self.members and n.name not in self._sites]
        changed = True
        while changed:
            changed = False
            for node in optional:
                if node.name in self.members and not (self._reads_codes(node) and self._pays(node)):
                    self.members.discard(node.name)
                    changed = True

    def _reads_codes(self, node: NodeProto) -> bool:
        inputs = self.data_inputs(node)
        carried = [self._is_code(t) for t in inputs]
        if node.op_type in _CONVERTS_OTHERS and any(self.code_writer(t) is not None for t in inputs):
            # A Q for the other operands, or a DQ for this one and a Q behind the node: int8 costs less.
            return True
        return any(carried) and all(
            is_code or self._is_small(t, node.output[0]) for t, is_code in zip(inputs, carried, strict=True)
        )

    def _is_code(self, tensor: str) -> bool:
        return self.code_writer(tensor) is not None or any(
            use.node in self._sites and self._sites[use.node].data == tensor for use in self._graph.uses(tensor)
        )

    def _pays(self, node: NodeProto) -> bool:
        rule = self._target.elementwise.get(node.op_type)
        outputs = node.output if len(node.output) > 1 else [self._tail[node.name][0]]
        if rule is not None and rule.shrinks:
            return True
        wanted = [
            use
            for tensor in outputs
            for use in self._graph.uses(tensor)
            if use.node in self.members and tensor in self.data_inputs(self._graph.node(use.node))
        ]
        return bool(wanted) and not any(self._graph.is_output(t) for t in outputs)

    def _is_small(self, tensor: str, reference: str) -> bool:
        own, large = self._graph.shape(tensor), self._graph.shape(reference)
        if own is None or large is None or len(own) != len(large):
            return False
        # Dimensions that are 1 here and anything else there are where it is broadcast; an open size counts as large.
        ratio = 1
        for mine, theirs in zip(own, large, strict=True):
            if mine == 1 and theirs != 1:
                ratio *= theirs if isinstance(theirs, int) else _SMALL_OPERAND
        return ratio >= _SMALL_OPERAND

    # ---- what stays float (C16) ------------------------------------------------------------------------------------

    def _taken_between_pairs(self) -> list[str]:
        """Quantized tensors that a float node computes which the engine would turn to int8 between its DQ and the Q."""
        found: list[str] = []
        biases = {s.bias_use.node for s in self._sites.values() if s.bias_use is not None}
        for tensor in self.quantized:
            node = None if self.code_writer(tensor) is not None else self._graph.producer(tensor)
            while node is not None and node.op_type in self._target.fused_activations and node.name not in self.members:
                node = self._graph.producer(node.input[0])
            if node is None or node.name in self.members or node.name in biases or not self._is_taken(node):
                continue
            activations = [t for t in node.input if t and not self._graph.is_constant(t) and self._graph.is_float(t)]
            if activations and all(self.code_writer(t) is not None for t in activations):
                found.append(tensor)
        return found

    def _is_taken(self, node: NodeProto) -> bool:
        target = self._target
        known = (*target.compute, *target.elementwise, *target.pass_through, *target.taken)
        return node.op_type in known and node.domain in STANDARD_DOMAINS

    def _taken_by_followers(self) -> list[str]:
        """Float outputs of int8 nodes that are fused with what follows first: an activation, or the Add behind a matrix
        product, which the two make a float Gemm whatever is added."""
        found: list[str] = []
        for site in self._sites.values():
            if site.rule.output_quantized or self.code_writer(self.output_of(site.node)) == site.node:
                continue
            readers = self._graph.consumers(site.output)
            fusing = set(self._target.fused_activations)
            if self._graph.node(site.node).op_type == "MatMul" and site.bias is None:
                fusing |= {"Add"} if self._graph.rank(site.output) in (2, None) else set()
            if site.output not in self.quantized and any(n.op_type in fusing for n in readers):
                found.append(site.output)
        return found

    def _moved_too_far(self) -> list[str]:
        """Quantized tensors whose Q onnxruntime would move up, past what only moves data, to where it does harm.

        Onto an output of the model, which then comes out rounded; or in front of a float MaxPool, which then pools
        codes with channels first, at nine times the cost of the float kernel, and the Q has more to round.
        """
        found: list[str] = []
        for tensor in self.quantized:
            node = self._graph.producer(tensor)
            while node is not None and node.op_type in self._target.pass_through and node.name not in self.members:
                if node.op_type == "MaxPool" or self._graph.is_output(node.input[0]):
                    found.append(tensor)
                    break
                node = self._graph.producer(node.input[0])
        return found

    # ---- which tensors -------------------------------------------------------------------------------------------

    def _quantized_tensors(self) -> list[str]:
        wanted: set[str] = set()
        for name in self.members:
            node = self._graph.node(name)
            wanted.update(self.data_inputs(node))
            if self.writes_codes(name):
                wanted.update(t for t in node.output if t) if len(node.output) > 1 else wanted.add(self.output_of(name))
        return in_graph_order(self._graph, wanted)


def in_graph_order(graph: Graph, tensors: Iterable[str]) -> list[str]:
    """`tensors` in the order in which the graph defines them: inputs, then nodes."""
    wanted = set(tensors)
    ordered = [t for t in graph.inputs if t in wanted]
    ordered += [t for node in graph.nodes for t in node.output if t in wanted]
    return ordered + sorted(wanted - set(ordered))
