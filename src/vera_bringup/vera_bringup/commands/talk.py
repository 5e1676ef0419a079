"""`vera goal`, `stop`, `reset`, `status`: short conversations with a running graph."""

from __future__ import annotations

import json
import math
from typing import Any

from vera_bringup.exits import CommandError, Exit
from vera_bringup.graph import check_domain, check_namespace
from vera_bringup.nodes.client import VeraClient, constant_name
from vera_bringup.prompts import PromptError, check_prompt
from vera_msgs.msg import ControllerStatus, GoalStatus


def goal(
    prompt: str, wait: bool, timeout: float, as_json: bool, domain: str | None, namespace: str
) -> None:
    """Send a goal and wait for its end."""
    try:
        prompt = check_prompt(prompt)
    except PromptError as error:
        raise CommandError(str(error)) from error
    with VeraClient(check_domain(domain), check_namespace(namespace)) as client:
        answer = client.set_goal(prompt)
        if not answer.accepted:
            _end(as_json, {'accepted': False, 'message': answer.message}, answer.message, False)
        print(f'goal {answer.goal_id} accepted' + (f': {answer.message}' if answer.message else ''))
        if not wait:
            _end(as_json, {'accepted': True, 'goal_id': answer.goal_id}, '', True)
        ended = client.until(lambda: client.goal_ended(answer.goal_id), timeout)
        status = client.goal
        if client.goal_lost:
            message = f'the planner was restarted and does not know goal {answer.goal_id} any more'
            report = {'goal_id': answer.goal_id, 'status': 'LOST', 'message': message}
            _end(as_json, report, f'LOST: {message}; give it again', False)
        if not ended or status is None:
            message = f'goal {answer.goal_id} is still pursued after {timeout:.0f} s'
            _end(as_json, {'goal_id': answer.goal_id, 'status': 'ACTIVE'}, message, False)
        assert status is not None
        name = constant_name(GoalStatus, status.status)
        report = {
            'goal_id': status.goal_id,
            'status': name,
            'message': status.message,
            'plans': status.plans,
        }
        reached = status.goal_id == answer.goal_id and status.status == GoalStatus.SUCCEEDED
        _end(as_json, report, f'{name}: {status.message} ({status.plans} plans)', reached)


def trigger(name: str, domain: str | None, namespace: str) -> None:
    """Call one of the std_srvs/Trigger services."""
    with VeraClient(check_domain(domain), check_namespace(namespace)) as client:
        success, message = client.trigger(name)
    _end(False, {}, f'{name}: {message or "done"}', success)


def status(as_json: bool, domain: str | None, namespace: str) -> None:
    """Print what is known of the graph."""
    number, space = check_domain(domain), check_namespace(namespace)
    with VeraClient(number, space) as client:
        client.until(lambda: bool(client.nodes()), 2.0)
        if client.nodes():
            # A simulator is not expected, but if there is one it takes its time to be discovered.
            client.until(lambda: client.sim is not None, 1.5)
            client.until(client.complete, 3.0)
            # A node's word may arrive before its name does.
            heard = {'controller': client.controller, 'planner': client.goal, 'sim': client.sim}
            named = {name for name, word in heard.items() if word is not None}
            client.until(lambda: named <= set(client.nodes()), 1.0)
        nodes = client.nodes()
        report = {'domain': number, 'namespace': space, 'nodes': nodes, **_statuses(client)}
    if not nodes:
        raise CommandError(
            f'no graph on ROS domain {number} in namespace /{space}; start one with `vera up`',
            Exit.NO_GRAPH,
        )
    if as_json:
        print(json.dumps(report))
        return
    print(f'nodes       {", ".join(nodes)}  (ROS domain {number}, namespace /{space})')
    for part in ('controller', 'goal', 'sim'):
        for key, value in (report[part] or {'': 'silent'}).items():
            print(f'{part if key in ("", "state", "status", "seed") else "":<11} {key} {value}')


def _statuses(client: VeraClient) -> dict[str, Any]:
    controller, goal_status, sim = client.controller, client.goal, client.sim
    return {
        'controller': controller
        and {
            'state': constant_name(ControllerStatus, controller.state),
            'reason': controller.reason,
            'ticks': controller.ticks,
            'clipped': controller.clipped,
            'underruns': controller.underruns,
            'rejected': controller.rejected,
            'last_rejection': controller.last_rejection,
            'plan_age': controller.plan_age if math.isfinite(controller.plan_age) else None,
        },
        'goal': goal_status
        and {
            'status': constant_name(GoalStatus, goal_status.status),
            'goal_id': goal_status.goal_id,
            'prompt': goal_status.prompt,
            'message': goal_status.message,
            'plans': goal_status.plans,
        },
        'sim': sim
        and {
            'seed': sim.seed,
            'distances': dict(zip(sim.objects, [round(d, 2) for d in sim.distances], strict=True)),
            'dwelled': sim.dwelled,
            'coverage': None if math.isnan(sim.coverage) else round(sim.coverage, 3),
        },
    }


def _end(as_json: bool, report: dict[str, Any], message: str, good: bool) -> None:
    """Print the outcome and leave: exit code 0 or 1."""
    if message:
        print(message)
    if as_json:
        print(json.dumps(report))
    raise SystemExit(Exit.OK if good else Exit.FAILED)
