"""The expressions that dashboards are made of, in PromQL.

Metrics that others' processes and brokers in the same Prometheus have as well are asked by job.
"""

from infra.grafana.model import Variable

ENVIRONMENT = Variable("environment", "Environment", 'up{job="maniple"}')
CAPABILITY = Variable(
    "capability", "Capability", 'maniple_tasks_accepted_total{environment="$environment"}'
)
HERE = 'environment="$environment"'
AN_AGENT = f'{HERE}, service="agent"'
A_BROKER = 'job="rabbitmq"'
A_QUEUE = f'{HERE}, job="rabbitmq-queues"'
OF_ONE = f'{HERE}, capability="$capability"'
QUANTILES = {"half": 0.5, "95 %": 0.95, "99 %": 0.99}


def total(inner: str, by: str = "") -> str:
    """Return a sum over all labels but those in `by`."""
    return f"sum by ({by}) ({inner})" if by else f"sum({inner})"


def rate(metric: str, by: str = "", where: str = HERE) -> str:
    """Return how fast a counter rises."""
    return total(f"rate({metric}{{{where}}}[$__rate_interval])", by)


def level(metric: str, by: str = "", where: str = HERE) -> str:
    """Return a gauge."""
    return total(f"{metric}{{{where}}}", by)


def quantile(share: float, metric: str, by: str = "", where: str = HERE) -> str:
    """Return a quantile of a histogram."""
    buckets = rate(f"{metric}_bucket", f"{by}, le" if by else "le", where)
    return f"histogram_quantile({share}, {buckets})"


def quantiles(metric: str, where: str) -> dict[str, str]:
    """Return half, most and nearly all of a histogram, by their names."""
    return {name: quantile(share, metric, where=where) for name, share in QUANTILES.items()}


def failing(by: str = "", where: str = HERE) -> str:
    """Return the share of results that are `failed`."""
    failed = rate("maniple_results_total", by, f'{where}, status="failed"')
    ended = rate("maniple_results_total", by, where)
    return f"({failed} or 0 * {ended}) / {ended}"


def of_queues(metric: str, names: str, by: str = "") -> str:
    """Return a metric of the queues whose names match a regular expression."""
    return level(f"rabbitmq_detailed_queue_{metric}", by, f'{A_QUEUE}, queue=~"{names}"')


def fullest(metric: str) -> str:
    """Return a metric of the ten queues that have most of it, without the streams."""
    queues = f'{A_QUEUE}, queue!~"maniple[.](records|.+[.]log)"'
    return f"topk(10, {level(f'rabbitmq_detailed_queue_{metric}', 'queue', queues)})"


def highest(metric: str, by: str = "", where: str = HERE) -> str:
    """Return a gauge that several processes show, as the one that shows most."""
    return f"max by ({by}) ({metric}{{{where}}})"


def processor_time(by: str, where: str = HERE) -> str:
    """Return how many cores processes of ours use."""
    return rate("process_cpu_seconds_total", by, f'{where}, job="maniple"')


def resident_memory(by: str, where: str = HERE) -> str:
    """Return the resident memory of processes of ours."""
    return level("process_resident_memory_bytes", by, f'{where}, job="maniple"')


def of_broker(metric: str) -> str:
    """Return a metric of our RabbitMQ nodes."""
    return f"rabbitmq_{metric}{{{A_BROKER}}}"


LANES = "maniple[.]lane[.].+"
LANES_OF_ONE = "maniple[.]lane[.]$capability(@.+)?([.]suspect)?"
