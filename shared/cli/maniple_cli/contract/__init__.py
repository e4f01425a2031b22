"""The AsyncAPI document: the messages on the wire, generated from the models."""
