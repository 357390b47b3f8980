"""How samples are read: the keywords of every function that takes data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypedDict

from onnxq.data.batches import Batches
from onnxq.data.images import ImageOptions
from onnxq.data.inputs import InputSpecs, Layout
from onnxq.data.sharded_batches import ShardedBatches
from onnxq.data.sharding import Shard
from onnxq.data.sources import images_without_files, open_data
from onnxq.data.synthetic import synthetic_batches
from onnxq.graph.view import Graph
from onnxq.keywords import Keyword, complete
from onnxq.passes.adapt.settle_types import runnable


class ReadingKeywords(TypedDict, total=False):
    """How samples are read."""

    batch_size: Annotated[int | None, Keyword(None, "Samples to feed at once, where the model leaves it open.")]
    limit: Annotated[int | None, Keyword(None, "Most samples to use.")]
    layout: Annotated[
        Layout | None,
        Keyword(None, 'Where rank-4 data keeps its channels ("nchw" or "nhwc"), if not where the model does.'),
    ]
    images: Annotated[
        ImageOptions | str | None,
        Keyword(None, 'How image files become arrays: "imagenet", "yolo", "paddleocr", or ImageOptions.'),
    ]


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How samples are read. Attributes as the keywords of the same names.

    Attributes:
        keeps_nonfinite: Whether NaN and Inf in them are fed as they are: where nonfinite="ignore" says so.
    """

    batch_size: int | None = None
    limit: int | None = None
    layout: Layout | None = None
    images: ImageOptions | str | None = None
    keeps_nonfinite: bool = False

    @classmethod
    def of(cls, options: ReadingKeywords) -> Reading:
        """What keywords say."""
        return cls(**complete(ReadingKeywords, options), keeps_nonfinite=options.get("nonfinite") == "ignore")

    def open(self, graph: Graph, data: Any, *, shard: Shard | None = None, skip: Sequence[str] = ()) -> Batches:
        """The data cut to batches for `graph`; None gives synthetic ones. Arguments and errors as for `open_data`."""
        graph = runnable(graph)
        if data is None:
            if self.images is not None:
                raise images_without_files(data)
            batches = synthetic_batches(graph)
            return batches if shard is None else ShardedBatches(batches, shard)
        return open_data(
            data,
            inputs=InputSpecs.from_graph(graph, keeps_nonfinite=self.keeps_nonfinite),
            batch_size=self.batch_size,
            limit=self.limit,
            layout=self.layout,
            images=self.images,
            shard=shard,
            skip=skip,
            graph=graph,
        )
