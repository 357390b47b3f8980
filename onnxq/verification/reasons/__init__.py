"""Why a node of a quantized graph stays in float: by the rules of each engine, naming the neighbour in the way."""
