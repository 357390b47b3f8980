"""How far a search has come: see `calibration.progress`, where every long stage tells so."""

from onnxq.calibration.progress import Callback, StageProgress, report_to

SearchProgress = StageProgress

__all__ = ["Callback", "SearchProgress", "report_to"]
