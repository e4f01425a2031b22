"""The AsyncAPI document: what is on the wire, generated from the models."""
