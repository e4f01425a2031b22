"""RabbitMQ as Maniple uses it."""

from infra.grafana.model import Board, Panel, Row
from infra.grafana.queries import (
    A_BROKER,
    ENVIRONMENT,
    HERE,
    LANES,
    fullest,
    level,
    of_broker,
    of_queues,
    rate,
    total,
)

READ = "maniple[.](submit|unrouted|retry|dead[.]broker|requests[.].+|lane[.].+)"

BROKER = Board(
    "maniple-broker",
    "Maniple / Broker",
    "RabbitMQ as Maniple uses it: queues, bundles, connections, room.",
    (ENVIRONMENT,),
    (
        Row(
            "Queues",
            (
                Panel(
                    "Waiting",
                    "short",
                    "Messages by what they wait for; of lanes and delays a message is a bundle.",
                    {
                        "a dispatcher": of_queues("messages_ready", "maniple[.]submit"),
                        "an agent": of_queues("messages_ready", LANES),
                        "time (delayed)": of_queues("messages_ready", "maniple[.]delay[.].+"),
                        "another attempt": of_queues("messages_ready", "maniple[.]retry"),
                    },
                ),
                Panel(
                    "Ready, by queue",
                    "short",
                    "Messages that nobody has taken, in the ten fullest queues.",
                    {"{{queue}}": fullest("messages_ready")},
                ),
                Panel(
                    "Taken and not settled, by queue",
                    "short",
                    "Messages that a process holds, in the ten queues that have most.",
                    {"{{queue}}": fullest("messages_unacked")},
                ),
                Panel(
                    "Readers, by queue",
                    "none",
                    "Consumers of each queue. A queue with work and without any is an alert.",
                    {"{{queue}}": of_queues("consumers", READ, "queue")},
                ),
                Panel(
                    "Record stream",
                    "bytes",
                    "Size of maniple.records, estimated from its messages and their average size.",
                    {"estimated": f"maniple:record_stream:bytes{{{HERE}}}"},
                ),
                Panel(
                    "Given up",
                    "cps",
                    "Messages that the broker dead-lettered, by its reason.",
                    {"{{reason}}": rate("maniple_dead_letters_total", "reason")},
                ),
            ),
        ),
        Row(
            "What Maniple sends",
            (
                Panel(
                    "Messages",
                    "cps",
                    "Bundles that the broker confirmed, by exchange.",
                    {"{{exchange}}": rate("maniple_bundles_sent_total", "exchange")},
                ),
                Panel(
                    "Tasks in a bundle",
                    "none",
                    "On average, by exchange. More is cheaper; slow tasks travel one by one.",
                    {
                        "{{exchange}}": rate("maniple_bundle_tasks_sum", "exchange")
                        + " / "
                        + rate("maniple_bundle_tasks_count", "exchange")
                    },
                ),
                Panel(
                    "Bytes",
                    "Bps",
                    "Of these bundles, by exchange.",
                    {"{{exchange}}": rate("maniple_bytes_sent_total", "exchange")},
                ),
                Panel(
                    "Refused",
                    "cps",
                    "Publishes that a queue refused: it is full or has no majority.",
                    {"{{exchange}}": rate("maniple_publishes_refused_total", "exchange")},
                    warn=1,
                ),
                Panel(
                    "Returned",
                    "cps",
                    "Publishes that no queue was bound for: a lane without agents, most often.",
                    {"{{exchange}}": rate("maniple_publishes_returned_total", "exchange")},
                ),
                Panel(
                    "Replies dropped",
                    "ops",
                    "Results whose reply queue does not exist or is full; they are recorded.",
                    {"dropped": rate("maniple_replies_dropped_total")},
                ),
            ),
        ),
        Row(
            "Connections and room",
            (
                Panel(
                    "Connections built anew",
                    "cps",
                    "By service and link: publish, consume, reply, control.",
                    {"{{service}} {{link}}": rate("maniple_reconnects_total", "service, link")},
                ),
                Panel(
                    "Held back by an alarm",
                    "none",
                    "Links on which the broker takes no publishes.",
                    {"{{service}}": level("maniple_publishing_blocked", "service")},
                    warn=1,
                ),
                Panel(
                    "Bytes held",
                    "bytes",
                    "Of messages that were taken and are not settled, the most of each service.",
                    {"{{service}}": f"max by (service) (maniple_held_bytes{{{HERE}}})"},
                ),
                Panel(
                    "Queues held back",
                    "none",
                    "From which a process takes no more, for the bytes that it holds.",
                    {"{{service}}": level("maniple_queues_held_back", "service")},
                    warn=1,
                ),
                Panel(
                    "Connections and channels",
                    "none",
                    "Of the whole broker, everybody's.",
                    {
                        "connections": total(of_broker("connections")),
                        "channels": total(of_broker("channels")),
                    },
                ),
                Panel(
                    "Memory",
                    "bytes",
                    "Of the broker, and where it stops taking publishes.",
                    {
                        "{{instance}}": of_broker("process_resident_memory_bytes"),
                        "alarm {{instance}}": of_broker("resident_memory_limit_bytes"),
                    },
                ),
                Panel(
                    "Free disk space",
                    "bytes",
                    "Of the broker, and where it stops taking publishes.",
                    {
                        "{{instance}}": of_broker("disk_space_available_bytes"),
                        "alarm {{instance}}": of_broker("disk_space_available_limit_bytes"),
                    },
                ),
                Panel(
                    "Messages of the broker",
                    "cps",
                    "Received from and delivered to all clients, ours and others'.",
                    {
                        "received": rate("rabbitmq_global_messages_received_total", where=A_BROKER),
                        "delivered": rate(
                            "rabbitmq_global_messages_delivered_total", where=A_BROKER
                        ),
                    },
                ),
            ),
        ),
    ),
)
