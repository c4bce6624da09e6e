"""The whole lookup against the simulated metadata service, over real HTTP."""
