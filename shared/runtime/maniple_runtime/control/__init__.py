"""The control plane of a process: messages, requests, and the connection that carries them."""
