"""What is decided and what goes wrong: what an entry says, how it is written, and who may wait."""
