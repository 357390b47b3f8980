"""The float passes in their order: what they leave is the graph that everything after them sees.

None of them changes what the model computes beyond float rounding: folding a factor into weights reorders products.
"""

from __future__ import annotations

from onnxq.passes.base import PassManager
from onnxq.passes.simplify.capture_invariants import CaptureInvariants
from onnxq.passes.simplify.clear_ambiguous_dimensions import ClearAmbiguousDimensions
from onnxq.passes.simplify.dedupe_initializers import DedupeInitializers
from onnxq.passes.simplify.fold_affine import FoldAffine
from onnxq.passes.simplify.fold_batchnorm import FoldBatchnorm
from onnxq.passes.simplify.fold_constants import FoldConstants
from onnxq.passes.simplify.fold_pad import FoldPad
from onnxq.passes.simplify.fuse_hard_sigmoid import FuseHardSigmoid
from onnxq.passes.simplify.infer_shapes import InferShapes
from onnxq.passes.simplify.inline_if import InlineIf
from onnxq.passes.simplify.lift_activations import LiftActivations
from onnxq.passes.simplify.lift_constants import LiftConstants
from onnxq.passes.simplify.merge_branches import MergeBranches
from onnxq.passes.simplify.pool_globally import PoolGlobally
from onnxq.passes.simplify.remove_identity import RemoveIdentity
from onnxq.passes.simplify.remove_unused import RemoveUnused
from onnxq.passes.simplify.settle_reshape import SettleReshape
from onnxq.passes.simplify.type_custom_operators import TypeCustomOperators
from onnxq.passes.simplify.unfold_softmax import UnfoldSoftmax
from onnxq.passes.simplify.uniform_prelu import UniformPRelu
from onnxq.passes.until_stable import UntilStable


def normalise_float(*, trained: bool = False) -> PassManager:
    """The passes that every float model goes through first. A second run makes no edits.

    Args:
        trained: Whether the weights have codes of a training, which a sum of weights would lose.
    """
    return PassManager(
        [
            RemoveUnused(),
            ClearAmbiguousDimensions(),
            LiftConstants(),
            InferShapes(),
            TypeCustomOperators(),
            UntilStable(
                [
                    InlineIf(),
                    LiftConstants(),
                    FoldConstants(),
                    UnfoldSoftmax(),
                    SettleReshape(),
                    RemoveIdentity(),
                    CaptureInvariants(),
                    FoldPad(),
                    FoldBatchnorm(),
                    FoldAffine(),
                    *(() if trained else (MergeBranches(),)),
                    PoolGlobally(),
                    LiftActivations(),
                    InferShapes(),
                ],
                name="fold",
            ),
            FuseHardSigmoid(),
            UniformPRelu(),
            DedupeInitializers(),
        ],
        name="normalise_float",
    )
