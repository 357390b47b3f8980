"""Reports as one HTML file: no network, light and dark, usable by keyboard, readable on a telephone."""
