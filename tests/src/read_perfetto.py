"""Reads a trace with Perfetto's own schema and prints what is in it as JSON; refuses what the schema does not know."""

import json
import sys

from google.protobuf import unknown_fields
from perfetto.protos.perfetto.trace import perfetto_trace_pb2 as schema


def check_known(message):
    assert len(unknown_fields.UnknownFieldSet(message)) == 0, f"fields that the schema does not know: {message}"
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in value if field.is_repeated else [value]:
                check_known(part)


def note(annotation):
    return annotation.string_value if annotation.HasField("string_value") else annotation.uint_value


trace = schema.Trace()
trace.ParseFromString(open(sys.argv[1], "rb").read())
check_known(trace)
tracks, names, last = {}, {}, 0
for packet in trace.packet:
    if packet.sequence_flags & packet.SEQ_INCREMENTAL_STATE_CLEARED:
        names = {}
    names.update((name.iid, name.name) for name in packet.interned_data.event_names)
    if packet.HasField("track_descriptor"):
        descriptor = packet.track_descriptor
        assert descriptor.uuid not in tracks, "two tracks of one uuid"
        parent = tracks[descriptor.parent_uuid]["path"] + "/" if descriptor.HasField("parent_uuid") else ""
        unit = descriptor.counter.Unit.Name(descriptor.counter.unit) if descriptor.HasField("counter") else None
        path = parent + descriptor.name
        tracks[descriptor.uuid] = {"path": path, "unit": unit, "slices": [], "instants": [], "values": [], "open": []}
    if not packet.HasField("track_event"):
        continue
    event, time = packet.track_event, packet.timestamp
    assert time >= last, "packets are not in order of time"
    last = time
    track = tracks[event.track_uuid]
    notes = {annotation.name: note(annotation) for annotation in event.debug_annotations}
    if event.type == event.TYPE_SLICE_BEGIN:
        track["open"].append([names[event.name_iid], time, notes])
    elif event.type == event.TYPE_SLICE_END:
        name, begin, notes = track["open"].pop()
        track["slices"].append([name, begin, time, notes])
    elif event.type == event.TYPE_INSTANT:
        track["instants"].append([names[event.name_iid], time, notes])
    elif event.type == event.TYPE_COUNTER:
        track["values"].append([time, event.counter_value])
    else:
        raise AssertionError(f"an event of type {event.type}")
for track in tracks.values():
    assert track.pop("open") == [], f"slices of {track['path']} do not end"
json.dump(list(tracks.values()), sys.stdout)
