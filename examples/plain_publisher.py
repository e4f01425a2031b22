"""A program that knows nothing of Maniple: it publishes JSON and gets its result, with pika alone.

To run beside `uv run maniple dev --handlers examples.text_stats` or `make up`, with the URL that it
prints as "submit to".

uv run python examples/plain_publisher.py amqp://outside:…@127.0.0.1:…/dev
"""

import json
import sys
from typing import Any

import pika

REPLY_TO = "amq.rabbitmq.reply-to"


def main(url: str) -> None:
    """Publish one task and print its result."""
    connection = pika.BlockingConnection(pika.URLParameters(url))
    channel = connection.channel()

    def on_result(_channel: Any, _method: Any, properties: Any, body: bytes) -> None:
        result = json.loads(body)
        print(properties.correlation_id, result["status"], result["output"] or result["error"])
        channel.stop_consuming()

    channel.basic_consume(REPLY_TO, on_result, auto_ack=True)
    channel.basic_publish(
        "maniple.tasks",
        "text.stats",  # the capability
        json.dumps({"payload": "to be or not to be\n"}).encode(),
        pika.BasicProperties(reply_to=REPLY_TO, correlation_id="first", delivery_mode=2),
    )
    channel.start_consuming()
    connection.close()


if __name__ == "__main__":
    main(sys.argv[1])
