"""docker-compose.yml keeps its promises, as far as reading it tells; no Docker is needed."""

import re
from typing import Any

import pytest
import yaml

from maniple_cli.dev_cluster.definitions import Role
from paths import ROOT

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
EXAMPLE = (ROOT / ".env.example").read_text()
ONCE = {"users", "cli"}  # they end by themselves
OTHERS = {"rabbitmq", "consul", "prometheus", "jaeger", "grafana"}
each = pytest.mark.parametrize("name", SERVICES)


@each
def test_an_image_is_pinned(name: str) -> None:
    _, _, tag = SERVICES[name]["image"].partition(":")
    assert re.fullmatch(r"v?\d+\.\d+(\.\d+)?(-management)?", tag)


def test_ports_are_open_of_servers_alone() -> None:
    assert {name for name, service in SERVICES.items() if service.get("ports")} == OTHERS


@each
def test_a_port_is_open_on_loopback_only(name: str) -> None:
    for port in SERVICES[name].get("ports", ()):
        assert re.fullmatch(r"127\.0\.0\.1:\$\{MANIPLE_\w+_PORT:-\d+\}:\d+", port)


@each
def test_a_container_is_confined(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"]
    assert service["mem_limit"]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["logging"]["options"]["max-size"]


@each
def test_a_container_is_started_again_unless_it_ends_by_itself(name: str) -> None:
    assert SERVICES[name]["restart"] == ("no" if name in ONCE else "unless-stopped")


@pytest.mark.parametrize("name", sorted(OTHERS))
def test_a_server_has_a_health_check(name: str) -> None:
    assert SERVICES[name]["healthcheck"]["test"]


def test_ours_have_that_of_the_image_and_run_as_nobody_in_particular() -> None:
    dockerfile = (ROOT / "infra" / "docker" / "Dockerfile").read_text()
    assert "\nHEALTHCHECK " in dockerfile
    assert re.search(r"^USER \d+:\d+$", dockerfile, re.MULTILINE)
    assert not any(SERVICES[name].get("healthcheck") for name in SERVICES.keys() - OTHERS - ONCE)


def test_what_is_needed_is_waited_for() -> None:
    for name in ("registry", "dispatcher", "policy", "agent"):
        needed = SERVICES[name]["depends_on"]
        assert needed["rabbitmq"] == needed["consul"] == {"condition": "service_healthy"}
    assert SERVICES["rabbitmq"]["depends_on"]["users"] == {
        "condition": "service_completed_successfully"
    }


def test_every_variable_without_default_is_a_password_of_the_example_and_empty_there() -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    needed = set(re.findall(r"\$\{(\w+):\?", text))
    assert needed == set(re.findall(r"^(\w+)=$", EXAMPLE, re.MULTILINE))
    assert needed >= {f"MANIPLE_{role.upper()}_PASSWORD" for role in Role}


def test_the_example_gives_the_defaults_of_the_file() -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    defaults = dict(re.findall(r"\$\{(MANIPLE_\w+):-([^}]*)\}", text))
    del defaults["MANIPLE_BUILD_NETWORK"]  # for builds, which the file's readers seldom make
    assert defaults.items() <= dict(re.findall(r"^(\w+)=(.+)$", EXAMPLE, re.MULTILINE)).items()


def test_each_process_is_given_the_login_of_its_own_role() -> None:
    for name in ("registry", "dispatcher", "policy", "agent"):
        url = SERVICES[name]["environment"]["MANIPLE_BROKER_URL"]
        assert url.startswith(f"amqp://{name}:${{MANIPLE_{name.upper()}_PASSWORD}}@rabbitmq:")


def test_a_prometheus_without_consul_differs_in_how_it_finds_processes_only() -> None:
    folder = ROOT / "infra" / "prometheus"
    through_consul, by_name = (
        yaml.safe_load((folder / file).read_text())
        for file in ("prometheus.yml", "without-consul.yml")
    )
    for told in (through_consul, by_name):
        told["scrape_configs"] = [
            job for job in told["scrape_configs"] if job["job_name"] != "maniple"
        ]
    assert by_name == through_consul


def test_prometheus_keeps_the_exemplars_that_lead_to_traces() -> None:
    assert "--enable-feature=exemplar-storage" in SERVICES["prometheus"]["command"][0].split()


def test_the_images_hold_no_secret_and_need_no_compiler_nor_buildkit() -> None:
    dockerfile = (ROOT / "infra" / "docker" / "Dockerfile").read_text()
    assert not re.search(r"PASSWORD|SECRET|TOKEN", dockerfile)
    assert not re.search(r"# syntax|--mount|<<|gcc|build-essential|apt", dockerfile)
    assert set(re.findall(r"^FROM (\S+)", dockerfile, re.MULTILINE)) == {"python:3.13-slim"}


def test_down_removes_the_project_that_the_file_names() -> None:
    script = (ROOT / "infra/docker/down").read_text()
    assert f"${{project:-{COMPOSE['name']}}}" in script
