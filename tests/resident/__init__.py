"""The service with its real sockets, threads and signals, in processes of its own."""
