"""The control plane of a process: messages, requests, and the connection they go over."""
