"""Float and quantized models judged on labelled data: metrics, labels, intervals, and what a difference is worth."""
