"""Small programs around the project; none of them is installed."""
