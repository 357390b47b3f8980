"""The stages that modes, searches and public functions put together."""
