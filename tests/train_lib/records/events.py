"""TensorBoard's event files, read as the TFRecords of protocol buffers that they are."""

import struct

from tensorboardX.proto import event_pb2


def events(folder):
    """The events in a folder's only file."""
    (path,) = folder.iterdir()
    content, found = path.read_bytes(), []
    while content:
        # Of each record its length, a checksum of that, the record, and a checksum of it.
        (length,) = struct.unpack("<Q", content[:8])
        found.append(event_pb2.Event.FromString(content[12 : 12 + length]))
        content = content[16 + length :]
    return found


def scalars(folder):
    """The steps and values of each tag, in order."""
    found = {}
    for event in events(folder):
        for value in event.summary.value:
            if value.WhichOneof("value") == "simple_value":
                found.setdefault(value.tag, []).append((event.step, value.simple_value))
    return found
