"""Which packet holds which frame, without decoding; tests/data/test_decode.py compares with decoding."""

import av
import pytest
import video_factory as factory

from slowfast_uniformer.data.packet_index import (
    BACKWARD,
    FIELDS,
    FRAME,
    HIDDEN,
    ODD,
    Packet,
    PacketIndex,
    content_reader,
    display_order,
)


def packets(times, keys=(0,), content=FRAME):
    return [Packet(time, at, at in keys, False, False, content) for at, time in enumerate(times)]


def test_runs_decode_no_packet_twice_and_no_group_for_nothing():
    # Three groups of five in decoding order; the first frame of the last group is shown before its key frame.
    times = [0, 2, 1, 4, 3, 5, 7, 6, 9, 8, 11, 10, 13, 12, 14]
    given = packets(times, keys=(0, 5, 10))
    index = PacketIndex(given, display_order(given, "h264", True, 1))
    assert index.runs([3]) == [(0, 4, {4})]
    assert index.runs([0, 12]) == [(0, 0, {0}), (10, 13, {13})]
    assert index.runs([3, 5]) == [(0, 5, {4, 5})]  # the next group begins with the next packet
    assert index.runs([10]) == [(5, 11, {11})]
    assert index.runs([9, 10, 14]) == [(5, 14, {8, 11, 14})]


@pytest.mark.parametrize(
    "times, depth, order",
    [
        ([0, 1, 2, 3], 0, [0, 1, 2, 3]),
        ([0, 2, 1, 4, 3], 1, [0, 2, 1, 4, 3]),
        ([0, 1, 2, 3], 1, None),  # can be those of decoding
        ([0, 4, 2, 1, 3], 1, None),  # more out of order than the header says
        ([0, None, 1], 0, None),
        ([0, 1, 1], 0, None),
    ],
)
def test_order_by_time_stamps(times, depth, order):
    assert display_order(packets(times), "hevc", True, depth) == order


def test_order_by_types_of_frames():
    given = [p._replace(content=BACKWARD if p.pts in (1, 2, 4) else FRAME) for p in packets(range(6))]
    assert display_order(given, "mpeg2video", True, 1) == [1, 2, 0, 4, 3, 5]
    assert display_order(given, "h264", True, 0) is None  # B-frames that are shown after all others
    assert display_order(packets([None] * 3), "h264", True, 2) == [0, 1, 2]
    assert display_order(packets([5, None, 5]), "vp8", False, 0) == [0, 1, 2]


def test_an_index_notes_what_decoding_leaves_out():
    given = packets([2, 0, 1, 3, 5, 4, 6], keys=(0, 4))  # the first two frames shown refer to what is missing
    index = PacketIndex(given, display_order(given, "h264", True, 1 << 4))
    assert index.spans(usual=True, whole=True) == [(0, 3, True)]
    assert index.confirm(0, 3, [0, 3], True)
    assert index.order == [0, 3, 5, 4, 6] and index.number[4] == 3
    assert not index.confirm(4, 6, [5, 6], True)  # decoding cannot begin there
    assert not index.confirm(0, 3, [3, 0], True)
    assert index.spans(usual=True, whole=False) == [(0, 3, True), (4, 6, True)]


def test_a_damaged_packet_is_decoded_after_all_others():
    given = packets(range(4), keys=(0, 2))
    given[3] = given[3]._replace(damaged=True)
    assert PacketIndex(given, range(4)).runs([1, 2]) == [(0, 2, {1, 2})]
    assert PacketIndex(given, range(4)).runs([3]) == [(0, 3, {3})]


def contents(path):
    with av.open(path) as container:
        codec = container.streams.video[0].codec_context
        content = content_reader(codec.codec.canonical_name, codec.extradata or b"")
        return [content(packet) for packet in container.demux(video=0) if packet.size]


B_FRAMES = {"x264-params": "log=-1:b-adapt=0:scenecut=0"}


@pytest.mark.parametrize(
    "name, arguments",
    {
        "a.mp4": dict(bframes=1, **B_FRAMES),
        "a.ts": dict(bframes=1, **B_FRAMES),
        "b.avi": dict(codec="mpeg4", bframes=1, b_strategy="0", sc_threshold="1000000000"),
        "a.mpg": dict(codec="mpeg2video", bframes=1, b_strategy="0", sc_threshold="1000000000"),
    }.items(),
)
def test_b_frames_are_known(tmp_path, name, arguments):
    path = factory.write_video(tmp_path / name, frames=9, gop=100, **arguments)
    assert contents(path) == [FRAME, FRAME, BACKWARD, FRAME, BACKWARD, FRAME, BACKWARD, FRAME, BACKWARD]


def packet(*units, length=4):
    data = b"".join(len(unit).to_bytes(length, "big") + unit for unit in units)
    return av.Packet(data)


KEY, P, B, REST, MESSAGE = b"\x65\x88\0", b"\x41\xe0\0", b"\x01\x9c\0", b"\x41\x02\x20", b"\x06\x05\xff\0"


@pytest.mark.parametrize(
    "units, content",
    [
        ([KEY], FRAME),
        ([MESSAGE, KEY, REST], FRAME),
        ([KEY, b"\x0a"], FRAME),
        ([B], BACKWARD),
        ([KEY, P], FIELDS),
        ([KEY, P, P], ODD),
        ([MESSAGE], ODD),
        ([REST], ODD),
        ([P, b""], ODD),
    ],
)
@pytest.mark.parametrize("length", [2, 4])
def test_parts_of_h264(units, content, length):
    read = content_reader("h264", b"\1\x64\0\x1f" + bytes([0xFC | length - 1]))
    assert read(packet(*units, length=length)) == content
    assert read(av.Packet(bytes(packet(*units, length=length)) + b"\0\0\0\x09\x41\xe0")) == ODD
    start_codes = av.Packet(b"".join(b"\0\0\0\1" + unit for unit in units if unit) + b"\0")
    assert content_reader("h264", b"")(start_codes) == (content if b"" not in units else FRAME)


IDR, TRAIL, OTHER_LAYER, END = b"\x26\x01\xaf", b"\x02\x01\xd0", b"\x02\x09\xd0", b"\x48\x01\0"


@pytest.mark.parametrize(
    "units, content",
    [([IDR], FRAME), ([TRAIL, OTHER_LAYER], FRAME), ([IDR, TRAIL], ODD), ([OTHER_LAYER], ODD), ([TRAIL, END], ODD)],
)
def test_parts_of_hevc(units, content):
    assert content_reader("hevc", b"\1" + bytes(20) + b"\3")(packet(*units)) == content


@pytest.mark.parametrize(
    "codec, data, content",
    [
        ("vp8", b"\x10\0\0\x9d\x01\x2a", FRAME),
        ("vp8", b"\x01\0\0", HIDDEN),
        ("vp8", b"\x10\0\0\0\0\0", ODD),
        ("vp9", b"\x86\0\x40", FRAME),
        ("vp9", b"\x06\0\x40", ODD),
        ("vp9", b"\x84\0\x40", HIDDEN),
        ("vp9", b"\x88", FRAME),  # shows an earlier one
        ("vp9", b"\x84\0\x40\xc1", FRAME),  # several, with their index
        ("vp9", b"\xb1\x0a", FRAME),
        ("vp9", b"\xb2\x0a", HIDDEN),
        ("mpeg4", b"\0\0\1\xb6\x50\x5f", ODD),  # "no new picture"
        ("mpeg2video", b"\0\0\1\0\0\x0f" + bytes(9) + b"\0\0\1\0\0\x17", FIELDS),
        ("mpeg2video", b"\0\0\1\xb3" + b"a" * 9, ODD),
        ("ffv1", b"\0", FRAME),
    ],
)
def test_first_bytes_of_others(codec, data, content):
    assert content_reader(codec, b"")(av.Packet(data)) == content


def test_mpeg_frames_have_all_rows():
    begin, rows = b"\0\0\1\0\0\x0f\xff", [b"\0\0\1\1a", b"\0\0\1\2a", b"\0\0\1\3a"]
    read = content_reader("mpeg2video", b"")
    whole, broken = av.Packet(begin + b"".join(rows)), av.Packet(begin + rows[0] + rows[2])
    assert [read(packet) for packet in (whole, broken, whole)] == [FRAME, ODD, FRAME]


def test_mjpeg_frames_have_all_their_tables():
    tables, scan = b"\xff\xdb\0\3a", b"\xff\xda\0\2"
    huffman = b"\xff\xc4\0\3a"
    read = content_reader("mjpeg", b"")
    assert read(av.Packet(b"\xff\xd8" + tables + huffman + scan)) == FRAME
    assert read(av.Packet(b"\xff\xd8" + huffman + scan)) == ODD
    assert read(av.Packet(b"\0\0" + tables + huffman + scan)) == ODD
    assert read(av.Packet(b"\xff\xd8" + tables + scan)) == ODD  # those of the first frame stay
    read = content_reader("mjpeg", b"")
    assert [read(av.Packet(b"\xff\xd8" + tables + scan)) for _ in range(2)] == [FRAME, FRAME]
