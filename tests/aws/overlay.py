"""EC2 with what moto lacks: moto's own answers, but for what has to do with instances."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

from moto.core.utils import utcnow
from moto.ec2 import urls
from moto.ec2.models.core import TaggedEC2Resource
from moto.ec2.responses import EC2Response

from tests.aws import listing
from tests.aws.answers import answer
from tests.aws.demand import Demand
from tests.aws.images import replace_moto_images
from tests.aws.imaging import create_image
from tests.aws.launching import launch
from tests.aws.life import Life
from tests.aws.network import check_creation, check_deletion, forget_subnet
from tests.aws.pools import facts, is_offered, spot_price
from tests.aws.refusals import Refusal, error_body
from tests.aws.world import Birth, Machines, SpotRequest, World

__all__ = ["Birth", "Ec2", "Machines", "World", "install"]

_DRY = "Request would have succeeded, but DryRun flag is set."
#: Where a request finds the account that it is for.
WORLD = "dayfly.world"


def install() -> None:
    """Put this in the place of moto's EC2, for this process."""
    urls.url_paths = {"{0}/": Ec2.dispatch}
    replace_moto_images()
    # moto looks through all tags of all resources for those of one.
    TaggedEC2Resource.get_tags = _get_tags  # type: ignore[method-assign, assignment]


def _get_tags(resource: Any) -> list[dict[str, str]]:
    tags = resource.ec2_backend.tags.get(resource.id, {})
    return [{"key": key, "value": value, "resource_id": resource.id} for key, value in tags.items()]


class Ec2(EC2Response):
    """The answers of EC2."""

    @property
    def world(self) -> World:
        world: World = self.normalized_request.environ[WORLD]
        return world

    def call_action(self) -> Any:
        world, action = self.world, self._get_action()
        world.listen()
        if action in ("RunInstances", *_SLOW):
            return super().call_action()
        if self.params.get("DryRun") and not action.startswith("Describe"):
            # Not every action of moto knows dry runs, and one that does not would do it.
            headers = {"Content-Type": "text/xml"}
            return 412, headers, error_body("ec2", "DryRunOperation", _DRY)
        with world.lock:
            world.settle()
            return super().call_action()

    def error_on_dryrun(self) -> None:
        if self.params.get("DryRun"):
            raise Refusal("DryRunOperation", _DRY)

    # Instances

    def run_instances(self) -> Any:
        with self.world.lock:
            self.world.settle()
            demand = Demand(self.world, dict(self.params))
        self.error_on_dryrun()
        lives = launch(self.world, demand)
        with self.world.lock:
            return answer("RunInstances", listing.reservations(self.world, lives)[0])

    def describe_instances(self) -> Any:
        self.error_on_dryrun()
        world, params = self.world, self.params
        ids = params.get("InstanceIds", [])
        if ids and "MaxResults" in params:
            raise Refusal(
                "InvalidParameterCombination",
                "The parameter instancesSet cannot be used with the parameter maxResults",
            )
        lives = world.lives_of(ids) if ids else world.visible()
        lives = listing.matching(world, lives, params.get("Filters", []))
        shown, following = listing.page(lives, params)
        result = {"Reservations": listing.reservations(world, shown), "NextToken": following}
        return answer("DescribeInstances", result)

    def describe_instance_status(self) -> Any:
        self.error_on_dryrun()
        world, params = self.world, self.params
        ids = params.get("InstanceIds", [])
        lives = world.lives_of(ids) if ids else world.visible()
        filters = [
            each for each in params.get("Filters", []) if each["Name"].startswith("instance-state")
        ]
        lives = listing.matching(world, lives, filters)
        if not params.get("IncludeAllInstances"):
            lives = [life for life in lives if life.state == "running"]
        ok = {"Status": "ok"}
        result = {
            "InstanceStatuses": [
                {
                    "InstanceId": life.id,
                    "AvailabilityZone": life.zone,
                    "InstanceState": listing.state(life.state),
                    "InstanceStatus": ok,
                    "SystemStatus": ok,
                }
                for life in lives
            ]
        }
        return answer("DescribeInstanceStatus", result)

    def start_instances(self) -> Any:
        world = self.world

        def check(life: Life) -> None:
            if life.state not in ("stopped", "pending", "running"):
                raise _wrong_state(life, "started", "stopped")
            if life.state == "stopped":
                world.check_quota(life.spot, life.vcpus)
                world.check_capacity(life.pool)

        def begin(life: Life) -> bool:
            if life.state != "stopped":
                return False
            world.pools.draw(life.pool, 1)
            life.instance.launch_time = utcnow()
            for nic in life.instance.nics.values():
                nic.start()
            life.enter("pending", world.now(), world.pending)
            if world.machines is not None:
                life.heard, life.deaf = "pending", True
            return True

        return self._change("StartInstances", "StartingInstances", check, begin)

    def stop_instances(self) -> Any:
        def check(life: Life) -> None:
            if life.spot:
                raise Refusal(
                    "UnsupportedOperation",
                    f"You can't stop the Spot Instance '{life.id}' because it is associated with "
                    "a one-time Spot Instance request. You can only stop Spot Instances "
                    "associated with persistent Spot Instance requests.",
                )
            if life.over or life.state == "pending":
                raise _wrong_state(life, "stopped", "running")

        def begin(life: Life) -> bool:
            changes = life.state == "running"
            self.world.halt([life])
            return changes

        return self._change("StopInstances", "StoppingInstances", check, begin)

    def terminate_instances(self) -> Any:
        def begin(life: Life) -> bool:
            changes = not life.over
            self.world.end([life])
            return changes

        return self._change("TerminateInstances", "TerminatingInstances", lambda _: None, begin)

    def _change(
        self,
        operation: str,
        member: str,
        check: Callable[[Life], None],
        begin: Callable[[Life], bool],
    ) -> str:
        """Change the state of all instances of a call, or of none."""
        world = self.world
        with world.lock:
            world.settle()
            lives = world.lives_of(self.params.get("InstanceIds", []))
            for life in lives:
                check(life)
            self.error_on_dryrun()
            before = {life.id: life.state for life in lives}
            changing = [life.id for life in lives if begin(life)]
            result = [
                {
                    "InstanceId": life.id,
                    "PreviousState": listing.state(before[life.id]),
                    "CurrentState": listing.state(life.state),
                }
                for life in lives
            ]
        if world.machines is not None and changing:
            try:
                getattr(world.machines, _SLOW[operation])(changing)
            finally:
                for life in lives:
                    if life.deaf:
                        # What a machine said until now is of the time before.
                        life.since, life.deaf = world.now(), False
        return answer(operation, {member: result})

    def create_tags(self) -> Any:
        self._check_known()
        return super().create_tags()

    def delete_tags(self) -> Any:
        self._check_known()
        return super().delete_tags()

    def _check_known(self) -> None:
        ids = [each for each in self.params.get("Resources", []) if each.startswith("i-")]
        if ids:
            self.world.lives_of(ids)

    def get_console_output(self) -> Any:
        self.error_on_dryrun()
        world, instance_id = self.world, self.params["InstanceId"]
        life = world.life(instance_id)
        text = world.consoles.get(instance_id)
        if text is None and world.machines is not None:
            text = world.machines.console(instance_id)
        result = {
            "InstanceId": life.id,
            "Timestamp": utcnow(),
            "Output": base64.b64encode((text or "").encode()).decode(),
        }
        return answer("GetConsoleOutput", result)

    # Spot

    def describe_spot_instance_requests(self) -> Any:
        self.error_on_dryrun()
        world = self.world
        ids = self.params.get("SpotInstanceRequestIds", [])
        found = [self._spot_request(each) for each in ids] or list(world.requests.values())
        for each in self.params.get("Filters", []):
            test = listing._tester(each.get("Values", []))
            found = [x for x in found if test(_spot_field(world, x, each["Name"]))]
        result = {"SpotInstanceRequests": [_describe_request(world, each) for each in found]}
        return answer("DescribeSpotInstanceRequests", result)

    def cancel_spot_instance_requests(self) -> Any:
        self.error_on_dryrun()
        found = [self._spot_request(each) for each in self.params["SpotInstanceRequestIds"]]
        for request in found:
            if request.state in ("open", "active"):
                request.state = "cancelled"
                request.status = "request-canceled-and-instance-running"
        result = {
            "CancelledSpotInstanceRequests": [
                {"SpotInstanceRequestId": each.id, "State": "cancelled"} for each in found
            ]
        }
        return answer("CancelSpotInstanceRequests", result)

    def _spot_request(self, request_id: str) -> SpotRequest:
        if request_id not in self.world.requests:
            raise Refusal(
                "InvalidSpotInstanceRequestID.NotFound",
                f"The spot instance request ID '{request_id}' does not exist",
            )
        return self.world.requests[request_id]

    def describe_spot_price_history(self) -> Any:
        self.error_on_dryrun()
        zones = sorted(each.name for each in self.ec2_backend.describe_availability_zones())
        wanted = self.params.get("AvailabilityZone")
        for each in self.params.get("Filters", []):
            if each["Name"] == "availability-zone":
                zones = [zone for zone in zones if zone in each["Values"]]
        history = [
            {
                "InstanceType": name,
                "AvailabilityZone": zone,
                "ProductDescription": "Linux/UNIX",
                "SpotPrice": f"{spot_price(name, zone):.6f}",
                "Timestamp": utcnow(),
            }
            for name in self.params.get("InstanceTypes", [])
            if facts(name)
            for zone in zones
            if is_offered(name, zone) and wanted in (None, zone)
        ]
        return answer("DescribeSpotPriceHistory", {"SpotPriceHistory": history, "NextToken": ""})

    # What there can be but one of, and what is in use

    def attach_internet_gateway(self) -> Any:
        check_creation(self.world, self._get_action(), self.params)
        return super().attach_internet_gateway()

    def associate_route_table(self) -> Any:
        check_creation(self.world, self._get_action(), self.params)
        return super().associate_route_table()

    def create_vpc_endpoint(self) -> Any:
        check_creation(self.world, self._get_action(), self.params)
        return super().create_vpc_endpoint()

    def delete_vpc_endpoints(self) -> Any:
        answered = super().delete_vpc_endpoints()
        for each in self.params.get("VpcEndpointIds", []):
            # moto goes on listing it.
            self.ec2_backend.vpc_end_points.pop(each, None)
        return answered

    def delete_security_group(self) -> Any:
        return self._delete("GroupId", super().delete_security_group)

    def delete_subnet(self) -> Any:
        answered = self._delete("SubnetId", super().delete_subnet)
        forget_subnet(self.world, self.params["SubnetId"])
        return answered

    def delete_vpc(self) -> Any:
        return self._delete("VpcId", super().delete_vpc)

    def detach_internet_gateway(self) -> Any:
        return self._delete("VpcId", super().detach_internet_gateway)

    def _delete(self, key: str, proceed: Callable[[], Any]) -> Any:
        check_deletion(self.world, self._get_action(), str(self.params.get(key, "")))
        return proceed()

    # Images and instance types

    def create_image(self) -> Any:
        return answer("CreateImage", {"ImageId": create_image(self.world, self.params)})

    def describe_instance_types(self) -> Any:
        if len(self.params.get("InstanceTypes", [])) > 100:
            raise Refusal("InvalidParameterValue", "At most 100 instance types may be named.")
        return super().describe_instance_types()


#: The calls that tell machines what to do, by the machines' own word for it.
_SLOW = {"StartInstances": "start", "StopInstances": "stop", "TerminateInstances": "terminate"}


def _wrong_state(life: Life, done: str, needed: str) -> Refusal:
    return Refusal(
        "IncorrectInstanceState",
        f"The instance '{life.id}' is not in a state from which it can be {done}: it is "
        f"'{life.state}', not '{needed}'.",
    )


def _spot_field(world: World, request: SpotRequest, name: str) -> Any:
    if name.startswith("tag:"):
        return world.backend.tags[request.id].get(name.removeprefix("tag:"))
    fields = {
        "instance-id": request.instance,
        "spot-instance-request-id": request.id,
        "state": request.state,
        "status-code": request.status,
        "type": "one-time",
        "tag-key": list(world.backend.tags[request.id]),
    }
    if name not in fields:
        raise Refusal("InvalidParameterValue", f"The filter '{name}' is invalid")
    return fields[name]


def _describe_request(world: World, request: SpotRequest) -> dict[str, Any]:
    return {
        "SpotInstanceRequestId": request.id,
        "InstanceId": request.instance,
        "LaunchedAvailabilityZone": request.zone,
        "LaunchSpecification": {
            "ImageId": request.image,
            "InstanceType": request.instance_type,
        },
        "ProductDescription": "Linux/UNIX",
        "SpotPrice": request.max_price or None,
        "State": request.state,
        "Status": {"Code": request.status, "Message": request.status},
        "Tags": listing.tags(world, request.id),
        "Type": "one-time",
        "InstanceInterruptionBehavior": "terminate",
    }
