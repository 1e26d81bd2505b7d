"""A client that knows only the .proto file: grpcio's own generated code, reflection and health; prints what it found.

A process of its own, because grpcio's and grpclib's health messages can't share one protobuf pool.
usage: stranger.py GENERATED_FOLDER ADDRESS
"""

import importlib
import json
import sys
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from grpc_tools import protoc

PROTO = Path(__file__).parents[2] / "proto"


def refusal(channel: grpc.Channel, body: bytes) -> str:
    """How `body` as a request of JobService/Get is refused."""
    try:
        channel.unary_unary("/headrace.v1.JobService/Get")(body, timeout=10)
    except grpc.RpcError as error:
        return str(error.code().name)
    return ""


def main(generated: Path, address: str) -> None:
    folder = generated / "headrace" / "v1"
    folder.mkdir(parents=True)
    (folder / "headrace.proto").write_text((PROTO / "headrace/v1/headrace.proto").read_text())
    assert (
        protoc.main(["", f"-I{folder}", f"--python_out={folder}", f"--grpc_python_out={folder}", "headrace.proto"]) == 0
    )
    sys.path.insert(0, str(folder))
    pb2, pb2_grpc = importlib.import_module("headrace_pb2"), importlib.import_module("headrace_pb2_grpc")
    with grpc.insecure_channel(address) as channel:
        reflection = ProtoReflectionDescriptorDatabase(channel)
        services = sorted(reflection.get_services())
        file = reflection.FindFileContainingSymbol("headrace.v1.JobService")
        stub = pb2_grpc.JobServiceStub(channel)
        try:
            stub.Get(pb2.JobRequest(name="nobody"), timeout=10)
            missing = ""
        except grpc.RpcError as error:
            missing = error.code().name
        asked = ("", "headrace.v1.JobService", "headrace.v1.WorkerService")
        checks = [health_pb2.HealthCheckRequest(service=service) for service in asked]
        health = [health_pb2_grpc.HealthStub(channel).Check(check, timeout=10) for check in checks]
        found = {
            "services": services,
            "methods": sorted(method.name for service in file.service for method in service.method),
            "jobs": [job.name for job in stub.List(pb2.ListRequest(), timeout=10).jobs],
            "watched": next(iter(stub.Watch(pb2.JobRequest(name="numbers"), timeout=10))).phase,
            "missing": missing,
            "health": [health_pb2.HealthCheckResponse.ServingStatus.Name(one.status) for one in health],
            "garbage": refusal(channel, b"\xff\xff\xff"),
        }
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
